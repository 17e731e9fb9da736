/* Which instruction set this machine has, and torch's threads for the kernels. */
#include "kernels.h"

parallel_t foveal_parallel = 0;

void foveal_use_threads(void *torch_parallel_for) { foveal_parallel = (parallel_t)torch_parallel_for; }

/* 0 baseline, 1 AVX2 with FMA, 2 AVX-512 */
int foveal_instruction_set(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}
