#include "device.h"
// Small kernels, each with one fault (marked), beside the same kernel without it.
#define K extern "C" __global__ void
K misaligned(u32* p) { *reinterpret_cast<uint4*>(p + 1) = make_uint4(1, 2, 3, 4); } // FAULT misaligned
K write_past(u32* p, int n) { if (threadIdx.x <= n) p[threadIdx.x] = 1; } // FAULT write_past
K shared_past(u32* p) { __shared__ u32 a[32], b[32]; a[threadIdx.x] = 1; b[threadIdx.x] = 2; __syncthreads();
  p[threadIdx.x] = b[threadIdx.x + p[40]] + a[threadIdx.x]; } // FAULT shared_past
K conditional_barrier(u32* p) { if (threadIdx.x < 64) __syncthreads(); // FAULT conditional_barrier
  p[threadIdx.x] = 1; }
K half_warp_barrier(u32* p) { if (threadIdx.x % 32 < 16) { p[threadIdx.x] = 2; __syncthreads(); } // FAULT half_warp_barrier
  p[threadIdx.x] += 1; }
K two_barriers(u32* p) { if (threadIdx.x < 32) bar_sync(1, 64); // FAULT two_barriers
  else bar_sync(2, 64);
  p[threadIdx.x] = 1; }
K register_unset(u32* p) { asm volatile("{.reg .b32 t; add.u32 t, t, 1; st.global.u32 [%0], t;}" :: "l"(p) : "memory"); } // FAULT register_unset
K write_write(u32* p) { __shared__ u32 s; s = threadIdx.x; // FAULT write_write
  __syncthreads(); p[0] = s; }
K blocks_race(u32* p) { if (threadIdx.x == 0) p[0] = blockIdx.x; } // FAULT blocks_race
K blocks_read(u32* p) { p[blockIdx.x] = 1; p[8 + blockIdx.x] = p[(blockIdx.x + 1) % gridDim.x]; } // FAULT blocks_read
K no_syncwarp(u32* p) { __shared__ u32 s[32]; s[threadIdx.x] = threadIdx.x;
#ifdef FIXED
  __syncwarp();
#endif
  p[threadIdx.x] = s[31 - threadIdx.x]; } // FAULT no_syncwarp
K reissued(u32* p) { __shared__ __align__(16) u32 s[128]; u32 t = threadIdx.x, sum = 0;
  for (int i = 0; i < 4; i++) {
    cp_async16(smem_u32(&s[t * 4]), p + i * 128 + t * 4); // FAULT reissued
    cp_async_commit(); cp_async_wait<0>(); __syncwarp();
    sum += s[(t * 4 + 17) % 128];
#ifdef FIXED
    __syncwarp();
#endif
  }
  p[512 + t] = sum; }
K histogram(u32* p) { __shared__ u32 h[32]; h[threadIdx.x] = 0; __syncthreads(); atomicAdd(&h[threadIdx.x / 2], 1u);
#ifdef FIXED
  __syncthreads();
#endif
  p[threadIdx.x] = h[31 - threadIdx.x]; } // FAULT histogram
K no_proxy_fence(u32* p) { __shared__ __align__(128) u32 s[32]; s[threadIdx.x] = threadIdx.x;
#ifdef FIXED
  fence_async();
#endif
  __syncthreads();
  if (threadIdx.x == 0) asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 128;\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" :: "l"(p), "r"(smem_u32(s)) : "memory"); } // FAULT no_proxy_fence
K last_block(u32* p) { // partial results without __threadfence
  if (threadIdx.x == 0) { p[1 + blockIdx.x] = blockIdx.x;
#ifdef FIXED
    __threadfence();
#endif
    if (atomicAdd(p, 1u) == gridDim.x - 1) { u32 r = 0; for (u32 b = 0; b < gridDim.x; b++) r += p[1 + b]; p[32] = r; } } } // FAULT last_block
K never_arrives(u32* p) { __shared__ u64 bar; if (threadIdx.x == 0) mbar_init(smem_u32(&bar), 2); __syncthreads();
  if (threadIdx.x == 0) mbar_arrive(smem_u32(&bar));
  mbar_wait(smem_u32(&bar), 0); p[0] = 1; } // FAULT never_arrives
K no_init(u32* p) { __shared__ u64 bar; mbar_wait(smem_u32(&bar), 0); p[0] = 1; } // FAULT no_init
K device_assert(u32* p) { if (p[threadIdx.x] == 12345) asm volatile("trap;"); p[threadIdx.x] = 0; } // FAULT device_assert
