/* For LD_AUDIT: processor time of an x86 with AVX2 and FMA only, on one that has more.

SITES, which the compiler is given in sites.h, are the cpuid instructions of the engines' libraries. Each becomes ud0
when its library is mapped, before any of its code runs, and the handler of SIGILL answers in its place. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static const struct { const char *file; unsigned long address; } SITES[] = {
#include "sites.h"
};
static const unsigned char CPUID[] = {0x0f, 0xa2}, UD0[] = {0x0f, 0xff};

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (memcmp((void *)registers[REG_RIP], UD0, 2)) { /* not ours: it ends the process when it comes again */
        signal(number, SIG_DFL);
        return;
    }
    unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
    __cpuid_count(leaf, subleaf, a, b, c, d);
    if (leaf == 7) { /* EBX keeps what Haswell had, AVX2 and BMI2; all of AVX-512, VNNI and AMX is in the rest */
        a = c = d = 0;
        b = subleaf ? 0 : b & 0xffff;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

unsigned la_version(unsigned version) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &action, NULL);
    return version;
}

unsigned la_objopen(struct link_map *map, Lmid_t space, uintptr_t *cookie) {
    const char *name = strrchr(map->l_name, '/');
    for (size_t i = 0; name && i < sizeof SITES / sizeof *SITES; i++) {
        if (strcmp(name + 1, SITES[i].file))
            continue;
        unsigned char *at = (unsigned char *)map->l_addr + SITES[i].address;
        void *page = (void *)((uintptr_t)at & -4096UL);
        if (memcmp(at, CPUID, 2) || mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC))
            abort();
        memcpy(at, UD0, 2);
        mprotect(page, 8192, PROT_READ | PROT_EXEC);
    }
    return 0;
}
