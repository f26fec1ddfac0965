/* A PKCS#11 module (PKCS#11 2.40) that hands everything to SoftHSM, and takes six seconds for each signature. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

/* CK_FUNCTION_LIST: a version, then 68 functions in the order of PKCS#11 2.40 §3.6; C_Sign is the 44th. */
struct list { unsigned char version[2]; void *functions[68]; };
enum { SIGN = 43 };

static struct list slow;
static unsigned long (*sign)(unsigned long, void *, unsigned long, void *, unsigned long *);

static unsigned long slow_sign(unsigned long session, void *data, unsigned long length, void *out, unsigned long *size)
{
    if (out)
        sleep(6);
    return sign(session, data, length, out, size);
}

unsigned long C_GetFunctionList(struct list **out)
{
    static void *module;
    unsigned long (*get)(struct list **);
    struct list *real;
    if (!module) {
        module = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
        if (!module || !(get = (unsigned long (*)(struct list **))dlsym(module, "C_GetFunctionList")) || get(&real))
            return 5; /* CKR_GENERAL_ERROR */
        memcpy(&slow, real, sizeof slow);
        sign = (unsigned long (*)(unsigned long, void *, unsigned long, void *, unsigned long *))real->functions[SIGN];
        slow.functions[SIGN] = (void *)slow_sign;
    }
    *out = &slow;
    return 0;
}
