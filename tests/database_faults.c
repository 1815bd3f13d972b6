/* Preloaded into the processes of a rotation: counts the calls that change files under one
 * directory, over all processes, and at a given one kills, fails, or just records.
 *
 * FAULT_DIR   the directory, absolute, without a slash at its end
 * FAULT_STATE a file of at least 64 bytes, shared: int64 counter, at, action, error, for_ever, fired
 * FAULT_LOG   if set, where each call is recorded, with its data
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, KILL_GROUP, KILL_SELF, FAIL };
enum { WRITE = 1, SYNC, TRUNCATE, RENAME, UNLINK, CREATE, COPY };

struct state {
    int64_t counter, at, action, error, for_ever, fired, fired_kind;
    char fired_path[200];
};

static struct state *state;
static int log_fd = -1;
static char directory[4096];
static size_t directory_length;

__attribute__((constructor)) static void start(void) {
    const char *dir = getenv("FAULT_DIR"), *path = getenv("FAULT_STATE"), *log = getenv("FAULT_LOG");
    if (!dir || !path) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (at == MAP_FAILED) return;
    snprintf(directory, sizeof directory, "%s", dir);
    directory_length = strlen(directory);
    if (log) log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    state = at;
}

static int ours(const char *path) {
    return state && !strncmp(path, directory, directory_length) &&
           (path[directory_length] == '/' || path[directory_length] == 0);
}

static int path_of(int fd, char *out, size_t size) {
    char link[64];
    if (!state) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlink, link, out, size - 1);
    if (n <= 0) return 0;
    out[n] = 0;
    return ours(out);
}

/* Returns an errno if the call is to fail, 0 if it is to be made. */
static int reach(int kind, const char *path) {
    int64_t number = __atomic_add_fetch(&state->counter, 1, __ATOMIC_SEQ_CST);
    int hit = number == state->at || (state->for_ever && state->at && number > state->at);
    if (!hit || state->action == NOTHING) return 0;
    if (!state->fired) {
        state->fired_kind = kind;
        snprintf(state->fired_path, sizeof state->fired_path, "%s", path);
        state->fired = number;
    }
    if (state->action == KILL_GROUP) { syscall(SYS_kill, 0, SIGKILL); for (;;) pause(); }
    if (state->action == KILL_SELF) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }
    return (int)state->error;
}

/* A record: kind, inode, offset, length, length of the path, length of the data; both follow. */
static void record(int kind, uint64_t inode, int64_t offset, int64_t length, const char *path,
                   const char *second, const void *data, size_t size) {
    if (log_fd < 0) return;
    int64_t head[7] = {kind, (int64_t)inode, offset, length, (int64_t)strlen(path),
                       (int64_t)(second ? strlen(second) : 0), (int64_t)size};
    struct iovec parts[4] = {{head, sizeof head}, {(void *)path, strlen(path)},
                             {(void *)(second ? second : ""), second ? strlen(second) : 0},
                             {(void *)data, size}};
    syscall(SYS_writev, log_fd, parts, 4);
}

static uint64_t inode_of(int fd) {
    struct stat status;
    return fstat(fd, &status) ? 0 : status.st_ino;
}

#define REAL(name, type) static __typeof__(type) real; if (!real) real = (__typeof__(type))dlsym(RTLD_NEXT, name)

typedef ssize_t (*pwrite_t)(int, const void *, size_t, off64_t);
static ssize_t counted_pwrite(pwrite_t real, int fd, const void *data, size_t size, off64_t offset) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return real(fd, data, size, offset);
    int error = reach(WRITE, path);
    if (error) { errno = error; return -1; }
    ssize_t n = real(fd, data, size, offset);
    if (n > 0) record(WRITE, inode_of(fd), offset, n, path, NULL, data, (size_t)n);
    return n;
}
ssize_t pwrite(int fd, const void *d, size_t n, off_t o) { REAL("pwrite", pwrite_t); return counted_pwrite(real, fd, d, n, o); }
ssize_t pwrite64(int fd, const void *d, size_t n, off64_t o) { REAL("pwrite64", pwrite_t); return counted_pwrite(real, fd, d, n, o); }

ssize_t write(int fd, const void *data, size_t size) {
    REAL("write", ssize_t (*)(int, const void *, size_t));
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return real(fd, data, size);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    int error = reach(WRITE, path);
    if (error) { errno = error; return -1; }
    ssize_t n = real(fd, data, size);
    if (n > 0) record(WRITE, inode_of(fd), offset, n, path, NULL, data, (size_t)n);
    return n;
}

static int counted_sync(int (*real)(int), int fd) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return real(fd);
    char label[sizeof path + 16];
    struct stat status;
    int empty = !fstat(fd, &status) && S_ISREG(status.st_mode) && !status.st_size;
    snprintf(label, sizeof label, "%s%s", path, empty ? " (empty)" : "");
    int error = reach(SYNC, label);
    if (error) { errno = error; return -1; }
    int result = real(fd);
    if (!result) record(SYNC, inode_of(fd), 0, 0, path, NULL, NULL, 0);
    return result;
}
int fsync(int fd) { REAL("fsync", int (*)(int)); return counted_sync(real, fd); }
int fdatasync(int fd) { REAL("fdatasync", int (*)(int)); return counted_sync(real, fd); }

typedef int (*truncate_t)(int, off64_t);
static int counted_truncate(truncate_t real, int fd, off64_t length) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return real(fd, length);
    int error = reach(TRUNCATE, path);
    if (error) { errno = error; return -1; }
    int result = real(fd, length);
    if (!result) record(TRUNCATE, inode_of(fd), length, 0, path, NULL, NULL, 0);
    return result;
}
int ftruncate(int fd, off_t n) { REAL("ftruncate", truncate_t); return counted_truncate(real, fd, n); }
int ftruncate64(int fd, off64_t n) { REAL("ftruncate64", truncate_t); return counted_truncate(real, fd, n); }

int rename(const char *from, const char *to) {
    REAL("rename", int (*)(const char *, const char *));
    if (!ours(to)) return real(from, to);
    int error = reach(RENAME, to);
    if (error) { errno = error; return -1; }
    int result = real(from, to);
    if (!result) record(RENAME, 0, 0, 0, from, to, NULL, 0);
    return result;
}

int unlink(const char *path) {
    REAL("unlink", int (*)(const char *));
    if (!ours(path) || syscall(SYS_access, path, F_OK)) return real(path);
    int error = reach(UNLINK, path);
    if (error) { errno = error; return -1; }
    int result = real(path);
    if (!result) record(UNLINK, 0, 0, 0, path, NULL, NULL, 0);
    return result;
}

typedef int (*open_t)(const char *, int, ...);
static int counted_open(open_t real, const char *path, int flags, mode_t mode) {
    int makes = (flags & O_CREAT) && ours(path) && syscall(SYS_access, path, F_OK);
    int empties = (flags & O_TRUNC) && ours(path) && !makes;
    if (makes || empties) {
        int error = reach(makes ? CREATE : TRUNCATE, path);
        if (error) { errno = error; return -1; }
    }
    int fd = real(path, flags, mode);
    if (fd >= 0 && makes) record(CREATE, inode_of(fd), 0, 0, path, NULL, NULL, 0);
    if (fd >= 0 && empties) record(TRUNCATE, inode_of(fd), 0, 0, path, NULL, NULL, 0);
    return fd;
}
static mode_t mode_of(int flags, va_list arguments) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}
int open(const char *path, int flags, ...) {
    REAL("open", open_t);
    va_list a; va_start(a, flags); mode_t mode = mode_of(flags, a); va_end(a);
    return counted_open(real, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    REAL("open64", open_t);
    va_list a; va_start(a, flags); mode_t mode = mode_of(flags, a); va_end(a);
    return counted_open(real, path, flags, mode);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags) {
    REAL("copy_file_range", ssize_t (*)(int, off64_t *, int, off64_t *, size_t, unsigned));
    char path[4096];
    if (!path_of(out, path, sizeof path)) return real(in, in_at, out, out_at, size, flags);
    int error = reach(COPY, path);
    if (error) { errno = error; return -1; }
    int64_t offset = out_at ? *out_at : 0;
    ssize_t n = real(in, in_at, out, out_at, size, flags);
    if (n > 0 && log_fd >= 0) {
        void *data = malloc((size_t)n);
        if (data && syscall(SYS_pread64, out, data, (size_t)n, offset) == n)
            record(WRITE, inode_of(out), offset, n, path, NULL, data, (size_t)n);
        free(data);
    }
    return n;
}
