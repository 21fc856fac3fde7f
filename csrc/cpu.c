/* Which instruction set extensions this CPU has and this operating system saves. Includes system headers only. */
#include "backend.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* XCR0: which register files the operating system saves (Intel SDM volume 1, section 13.3). */
static uint64_t enabled_states(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

uint32_t mxn_cpu_features(void) {
    enum { YMM_STATE = 0x06, ZMM_STATE = 0xE6 };
    enum { AVXVNNI = 1 << 4 }; /* of leaf 7, subleaf 1; headers differ in its name */
    uint32_t eax, ebx, ecx, edx, features = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return 0;
    const uint64_t states = enabled_states();
    if ((states & YMM_STATE) != YMM_STATE || !(ecx & bit_AVX)) return 0;
    if (ecx & bit_FMA) features |= MXN_CPU_FMA;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return features;
    if (ebx & bit_AVX2) features |= MXN_CPU_AVX2;
    if ((states & ZMM_STATE) == ZMM_STATE) {
        if (ebx & bit_AVX512F) features |= MXN_CPU_AVX512F;
        if (ecx & bit_AVX512VNNI) features |= MXN_CPU_AVX512VNNI;
    }
    const uint32_t subleaves = eax;
    if (subleaves < 1 || !__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return features;
    if (eax & AVXVNNI) features |= MXN_CPU_AVXVNNI;
    return features;
}

#elif defined(__aarch64__)
#include <sys/auxv.h>

uint32_t mxn_cpu_features(void) {
    enum { ASIMD = 1 << 1, ASIMDDP = 1 << 20 }; /* HWCAP_ of <asm/hwcap.h> */
    const unsigned long capabilities = getauxval(AT_HWCAP);
    return (capabilities & ASIMD ? MXN_CPU_NEON : 0) | (capabilities & ASIMDDP ? MXN_CPU_DOTPROD : 0);
}

#elif defined(__arm__)
#include <sys/auxv.h>

uint32_t mxn_cpu_features(void) {
    enum { NEON = 1 << 12, VFPV4 = 1 << 16 }; /* HWCAP_ of <asm/hwcap.h> */
    const unsigned long wanted = NEON | VFPV4;
    return (getauxval(AT_HWCAP) & wanted) == wanted ? MXN_CPU_NEON : 0;
}

#else

uint32_t mxn_cpu_features(void) { return 0; }

#endif
