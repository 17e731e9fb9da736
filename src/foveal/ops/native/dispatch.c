/* Which instruction set this machine has, and torch's threads for the kernels. */
#define _GNU_SOURCE /* syscall */
#include "kernels.h"

parallel_t foveal_parallel = 0;

void foveal_use_threads(void *torch_parallel_for) { foveal_parallel = (parallel_t)torch_parallel_for; }

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Matrix tiles of bfloat16: the processor has them, the system saves them, and this process may use them. */
static int tiles(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (1u << 22 | 1u << 24)) return 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || ~a & 1u << 5) return 0; /* AVX512_BF16 */
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || ~c & 1u << 27) return 0; /* XGETBV */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (~low & (1u << 17 | 1u << 18)) return 0;
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
}
#else
static int tiles(void) { return 0; }
#endif

/* 0 baseline, 1 AVX2 with FMA, 2 AVX-512, 3 AVX-512 with matrix tiles (AMX) */
int foveal_instruction_set(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq"))
        return tiles() ? 3 : 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}
