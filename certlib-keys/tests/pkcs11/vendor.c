/* A PKCS#11 library that hands everything to another one, and behaves as those of vendors do where that one does not.
 * What it does is told by the files in a folder. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;

enum { FUNCTIONS = 68 };
enum { GET_TOKEN_INFO = 6, OPEN_SESSION = 12, CLOSE_SESSION = 13, GET_SESSION_INFO = 15, LOGIN = 18, ENCRYPT_INIT = 29, DECRYPT = 34, SIGN_INIT = 42 };

#define OK 0x0UL
#define ARGUMENTS_BAD 0x7UL
#define GENERAL_ERROR 0x5UL
#define DEVICE_REMOVED 0x32UL
#define TOKEN_NOT_PRESENT 0xE0UL
#define VENDOR_DEFINED 0x80000123UL
#define AES_GCM 0x1087UL
#define PIN_FINAL_TRY 0x20000UL
#define PIN_LOCKED 0x40000UL

struct list {
    unsigned char major, minor;
    void *functions[FUNCTIONS];
};
struct mechanism {
    ulong_t type;
    void *parameter;
    ulong_t length;
};
struct gcm {
    unsigned char *iv;
    ulong_t iv_length;
};
struct token {
    unsigned char names[96];
    ulong_t flags;
};

static struct list *real, ours;

static FILE *open_file(const char *name, const char *mode) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("CERTLIB_TEST_HSM_FOLDER"), name);
    return fopen(path, mode);
}

static int is_told(const char *name) {
    FILE *file = open_file(name, "r");
    if (file) fclose(file);
    return file != NULL;
}

static void count(const char *name) {
    FILE *file = open_file(name, "a");
    fputc('x', file);
    fclose(file);
}

static ulong_t get_token_info(ulong_t slot, struct token *token) {
    ulong_t (*next)(ulong_t, struct token *) = real->functions[GET_TOKEN_INFO];
    ulong_t returned = next(slot, token);
    if (is_told("pin-final-try")) token->flags |= PIN_FINAL_TRY;
    if (is_told("pin-locked")) token->flags |= PIN_LOCKED;
    return returned;
}

static ulong_t open_session(ulong_t slot, ulong_t flags, void *application, void *notify, ulong_t *session) {
    ulong_t (*next)(ulong_t, ulong_t, void *, void *, ulong_t *) = real->functions[OPEN_SESSION];
    ulong_t returned = is_told("removed") ? TOKEN_NOT_PRESENT : next(slot, flags, application, notify, session);
    if (returned == OK) count("opened");
    return returned;
}

static ulong_t close_session(ulong_t session) {
    ulong_t (*next)(ulong_t) = real->functions[CLOSE_SESSION];
    ulong_t returned = next(session);
    if (returned == OK) count("closed");
    return returned;
}

static ulong_t get_session_info(ulong_t session, void *info) {
    ulong_t (*next)(ulong_t, void *) = real->functions[GET_SESSION_INFO];
    return is_told("removed") ? DEVICE_REMOVED : next(session, info);
}

static ulong_t login(ulong_t session, ulong_t user, unsigned char *pin, ulong_t length) {
    ulong_t (*next)(ulong_t, ulong_t, unsigned char *, ulong_t) = real->functions[LOGIN];
    count("logins");
    return next(session, user, pin, length);
}

static ulong_t encrypt_init(ulong_t session, struct mechanism *mechanism, ulong_t key) {
    ulong_t (*next)(ulong_t, struct mechanism *, ulong_t) = real->functions[ENCRYPT_INIT];
    if (is_told("removed")) return DEVICE_REMOVED;
    while (is_told("hang")) usleep(10000);
    if (mechanism->type == AES_GCM && is_told("own-nonces")) {
        struct gcm *gcm = mechanism->parameter;
        static const unsigned char zeros[12];
        FILE *random;
        if (gcm->iv_length != sizeof zeros || memcmp(gcm->iv, zeros, sizeof zeros) != 0) return ARGUMENTS_BAD;
        random = fopen("/dev/urandom", "r");
        if (fread(gcm->iv, 1, sizeof zeros, random) != sizeof zeros) return GENERAL_ERROR;
        fclose(random);
    }
    return next(session, mechanism, key);
}

static ulong_t decrypt(ulong_t session, void *data, ulong_t length, void *plain, ulong_t *plain_length) {
    ulong_t (*next)(ulong_t, void *, ulong_t, void *, ulong_t *) = real->functions[DECRYPT];
    ulong_t returned = next(session, data, length, plain, plain_length);
    if (returned != OK && is_told("vague")) return VENDOR_DEFINED;
    return is_told("broken") ? GENERAL_ERROR : returned;
}

static ulong_t sign_init(ulong_t session, struct mechanism *mechanism, ulong_t key) {
    ulong_t (*next)(ulong_t, struct mechanism *, ulong_t) = real->functions[SIGN_INIT];
    if (is_told("removed")) return DEVICE_REMOVED;
    return is_told("broken") ? GENERAL_ERROR : next(session, mechanism, key);
}

ulong_t C_GetFunctionList(struct list **list) {
    void *library = dlopen(getenv("CERTLIB_TEST_HSM_REAL"), RTLD_NOW);
    ulong_t (*next)(struct list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
    if (!next || next(&real) != OK) return GENERAL_ERROR;
    ours = *real;
    ours.functions[GET_TOKEN_INFO] = get_token_info;
    ours.functions[OPEN_SESSION] = open_session;
    ours.functions[CLOSE_SESSION] = close_session;
    ours.functions[GET_SESSION_INFO] = get_session_info;
    ours.functions[LOGIN] = login;
    ours.functions[ENCRYPT_INIT] = encrypt_init;
    ours.functions[DECRYPT] = decrypt;
    ours.functions[SIGN_INIT] = sign_init;
    *list = &ours;
    return OK;
}
