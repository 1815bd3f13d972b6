/* valgrind's requests for constant_time_target.py; test_constant_time.py compiles it. */
#include <valgrind/memcheck.h>

int running(void) { return RUNNING_ON_VALGRIND; }

void taint(void *start, unsigned long length) { (void)VALGRIND_MAKE_MEM_UNDEFINED(start, length); }

void clear(void *start, unsigned long length) { (void)VALGRIND_MAKE_MEM_DEFINED(start, length); }

unsigned long errors(void) { return VALGRIND_COUNT_ERRORS; }

int naive(const unsigned char *left, const unsigned char *right, unsigned long length)
{
    for (unsigned long i = 0; i < length; i++)
        if (left[i] != right[i])
            return 0;
    return 1;
}
