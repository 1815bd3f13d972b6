/* A PKCS#11 module that stands in front of another one, SHIM_MODULE: it logs each call, returns a
 * chosen CKR value at a chosen call, and plays tokens that the tests have none of.
 *
 * The tests steer it through the shim_* functions (ctypes), which see the same memory as the
 * module that python-pkcs11 loaded. One thread at a time, as the library promises. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static CK_FUNCTION_LIST *real;
static CK_FUNCTION_LIST mine;

/* The names of the calls so far, each with a newline. */
static char calls[1 << 20];
static size_t calls_len;
static long count;

/* The fault: at the `fault_at`th call (from 1) that is one of `fault_function`, or at any. */
static char fault_function[64];
static long fault_at, fault_seen;
static unsigned long fault_code;
static int fault_forever;
/* The real call is made all the same, and only its answer is lost. */
static int fault_after;

/* Tokens that the tests have none of. */
static int own_nonce;       /* makes the nonces of AES-GCM itself */
static int no_gcm;          /* has no AES-GCM */
static int no_rng;          /* C_GenerateRandom fails */
static int stuck_rng;       /* if set, C_GenerateRandom gives its low byte alone */
static int short_seal;      /* C_Encrypt says that it gave a byte less */
static int short_open;      /* C_Decrypt likewise */
static int lie_extractable; /* keys come out extractable, whatever the template says */
static int kill_at;         /* SIGKILL before this call */
static int stall_ms;        /* C_Encrypt takes this long */
static CK_BYTE *gcm_nonce;
static CK_BYTE last_nonce[12];

void shim_fault(const char *function, long at, unsigned long code, int forever, int after) {
    snprintf(fault_function, sizeof fault_function, "%s", function);
    fault_at = at, fault_seen = 0, fault_code = code;
    fault_forever = forever, fault_after = after;
}

void shim_reset(void) {
    calls_len = 0, calls[0] = 0, count = 0;
    fault_at = 0;
}

const char *shim_calls(void) { return calls; }

const unsigned char *shim_last_nonce(void) { return last_nonce; }

void shim_set(const char *name, int value) {
    if (!strcmp(name, "own_nonce")) own_nonce = value;
    else if (!strcmp(name, "no_gcm")) no_gcm = value;
    else if (!strcmp(name, "no_rng")) no_rng = value;
    else if (!strcmp(name, "stuck_rng")) stuck_rng = value;
    else if (!strcmp(name, "short_seal")) short_seal = value;
    else if (!strcmp(name, "short_open")) short_open = value;
    else if (!strcmp(name, "lie_extractable")) lie_extractable = value;
    else if (!strcmp(name, "kill_at")) kill_at = value;
    else if (!strcmp(name, "stall_ms")) stall_ms = value;
    else abort();
}

/* Whether this call is to fail, before or after the real one. */
static int hit(const char *name) {
    size_t len = strlen(name);
    count++;
    if (calls_len + len + 2 < sizeof calls) {
        memcpy(calls + calls_len, name, len);
        calls_len += len;
        calls[calls_len++] = '\n';
        calls[calls_len] = 0;
    }
    if (kill_at && count == kill_at) kill(getpid(), 9);
    if (!fault_at || (fault_function[0] && strcmp(fault_function, name))) return 0;
    fault_seen++;
    return fault_seen == fault_at || (fault_forever && fault_seen > fault_at);
}

#define CALL(name, parameters, arguments)                    \
    static CK_RV my_##name parameters {                      \
        int bad = hit(#name);                                \
        if (bad && !fault_after) return fault_code;          \
        CK_RV rv = real->name arguments;                     \
        return bad ? fault_code : rv;                        \
    }

CALL(C_Initialize, (void *a), (a))
CALL(C_Finalize, (void *a), (a))
CALL(C_GetInfo, (CK_INFO * a), (a))
CALL(C_GetSlotList, (unsigned char a, CK_SLOT_ID *b, unsigned long *c), (a, b, c))
CALL(C_GetSlotInfo, (CK_SLOT_ID a, CK_SLOT_INFO *b), (a, b))
CALL(C_GetTokenInfo, (CK_SLOT_ID a, CK_TOKEN_INFO *b), (a, b))
CALL(C_GetMechanismInfo, (CK_SLOT_ID a, CK_MECHANISM_TYPE b, CK_MECHANISM_INFO *c), (a, b, c))
CALL(C_OpenSession, (CK_SLOT_ID a, CK_FLAGS b, void *c, CK_NOTIFY d, CK_SESSION_HANDLE *e),
     (a, b, c, d, e))
CALL(C_CloseSession, (CK_SESSION_HANDLE a), (a))
CALL(C_Login, (CK_SESSION_HANDLE a, CK_USER_TYPE b, unsigned char *c, unsigned long d),
     (a, b, c, d))
CALL(C_Logout, (CK_SESSION_HANDLE a), (a))
CALL(C_CreateObject, (CK_SESSION_HANDLE a, CK_ATTRIBUTE *b, unsigned long c, CK_OBJECT_HANDLE *d),
     (a, b, c, d))
CALL(C_DestroyObject, (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b), (a, b))
CALL(C_GetAttributeValue,
     (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b, CK_ATTRIBUTE *c, unsigned long d), (a, b, c, d))
CALL(C_SetAttributeValue,
     (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE b, CK_ATTRIBUTE *c, unsigned long d), (a, b, c, d))
CALL(C_FindObjectsInit, (CK_SESSION_HANDLE a, CK_ATTRIBUTE *b, unsigned long c), (a, b, c))
CALL(C_FindObjects,
     (CK_SESSION_HANDLE a, CK_OBJECT_HANDLE *b, unsigned long c, unsigned long *d), (a, b, c, d))
CALL(C_FindObjectsFinal, (CK_SESSION_HANDLE a), (a))
CALL(C_DecryptInit, (CK_SESSION_HANDLE a, CK_MECHANISM *b, CK_OBJECT_HANDLE c), (a, b, c))
CALL(C_WrapKey,
     (CK_SESSION_HANDLE a, CK_MECHANISM *b, CK_OBJECT_HANDLE c, CK_OBJECT_HANDLE d,
      unsigned char *e, unsigned long *f),
     (a, b, c, d, e, f))
CALL(C_UnwrapKey,
     (CK_SESSION_HANDLE a, CK_MECHANISM *b, CK_OBJECT_HANDLE c, unsigned char *d, unsigned long e,
      CK_ATTRIBUTE *f, unsigned long g, CK_OBJECT_HANDLE *h),
     (a, b, c, d, e, f, g, h))

static CK_RV my_C_GetMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, unsigned long *length) {
    if (hit("C_GetMechanismList")) return fault_code;
    CK_RV rv = real->C_GetMechanismList(slot, list, length);
    /* One that is listed twice is as good as one that is left out. */
    for (unsigned long i = 0; no_gcm && rv == CKR_OK && list && i < *length; i++)
        if (list[i] == CKM_AES_GCM) list[i] = CKM_AES_CBC;
    return rv;
}

static CK_RV my_C_GenerateRandom(CK_SESSION_HANDLE session, unsigned char *out, unsigned long n) {
    if (hit("C_GenerateRandom")) return fault_code;
    if (no_rng) return CKR_RANDOM_NO_RNG;
    if (stuck_rng) {
        memset(out, stuck_rng & 0xff, n);
        return CKR_OK;
    }
    return real->C_GenerateRandom(session, out, n);
}

static CK_RV my_C_GenerateKey(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                           CK_ATTRIBUTE *template, unsigned long n, CK_OBJECT_HANDLE *key) {
    int bad = hit("C_GenerateKey");
    if (bad && !fault_after) return fault_code;
    for (unsigned long i = 0; lie_extractable && i < n; i++)
        if (template[i].type == CKA_EXTRACTABLE) *(CK_BBOOL *)template[i].pValue = CK_TRUE;
    CK_RV rv = real->C_GenerateKey(session, mechanism, template, n, key);
    return bad ? fault_code : rv;
}

static CK_RV my_C_EncryptInit(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism,
                           CK_OBJECT_HANDLE key) {
    if (hit("C_EncryptInit")) return fault_code;
    if (mechanism->mechanism == CKM_AES_GCM) {
        if (no_gcm) return CKR_MECHANISM_INVALID;
        CK_GCM_PARAMS *parameters = mechanism->pParameter;
        gcm_nonce = parameters->pIv;
        if (own_nonce) {
            /* As a FIPS token does: whatever the caller put there is not used. */
            FILE *urandom = fopen("/dev/urandom", "rb");
            if (!urandom || fread(last_nonce, 1, 12, urandom) != 12) abort();
            fclose(urandom);
            static CK_GCM_PARAMS changed;
            changed = *parameters;
            changed.pIv = last_nonce;
            CK_MECHANISM own = {CKM_AES_GCM, &changed, sizeof changed};
            return real->C_EncryptInit(session, &own, key);
        }
        memcpy(last_nonce, gcm_nonce, 12);
    }
    return real->C_EncryptInit(session, mechanism, key);
}

static CK_RV my_C_Encrypt(CK_SESSION_HANDLE session, unsigned char *data, unsigned long length,
                       unsigned char *out, unsigned long *out_length) {
    int bad = hit("C_Encrypt");
    if (bad && !fault_after) return fault_code;
    if (stall_ms) usleep(stall_ms * 1000);
    CK_RV rv = real->C_Encrypt(session, data, length, out, out_length);
    if (own_nonce && gcm_nonce && out) memcpy(gcm_nonce, last_nonce, 12);
    if (short_seal && out) --*out_length;
    return bad ? fault_code : rv;
}

static CK_RV my_C_Decrypt(CK_SESSION_HANDLE session, unsigned char *data, unsigned long length,
                       unsigned char *out, unsigned long *out_length) {
    int bad = hit("C_Decrypt");
    if (bad && !fault_after) return fault_code;
    CK_RV rv = real->C_Decrypt(session, data, length, out, out_length);
    if (short_open && out) --*out_length;
    return bad ? fault_code : rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list) {
    if (!real) {
        const char *path = getenv("SHIM_MODULE");
        void *handle = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
        CK_RV (*get)(CK_FUNCTION_LIST **) = handle ? dlsym(handle, "C_GetFunctionList") : NULL;
        if (!get || get(&real) != CKR_OK) return CKR_GENERAL_ERROR;
        mine = *real;
#define OURS(name) mine.name = my_##name
        OURS(C_Initialize), OURS(C_Finalize), OURS(C_GetInfo), OURS(C_GetSlotList);
        OURS(C_GetSlotInfo), OURS(C_GetTokenInfo), OURS(C_GetMechanismList);
        OURS(C_GetMechanismInfo), OURS(C_OpenSession), OURS(C_CloseSession), OURS(C_Login);
        OURS(C_Logout), OURS(C_CreateObject), OURS(C_DestroyObject), OURS(C_GetAttributeValue);
        OURS(C_SetAttributeValue), OURS(C_FindObjectsInit), OURS(C_FindObjects);
        OURS(C_FindObjectsFinal), OURS(C_EncryptInit), OURS(C_Encrypt), OURS(C_DecryptInit);
        OURS(C_Decrypt), OURS(C_GenerateKey), OURS(C_WrapKey), OURS(C_UnwrapKey);
        OURS(C_GenerateRandom);
    }
    *list = &mine;
    return CKR_OK;
}
