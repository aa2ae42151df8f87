// Tensor copies: the box as it lies in shared memory (before: all ones), and stores of a box back to device memory.
#include "device.h"
extern "C" __global__ void tma_load_1d(const u32* in, u32* out, const GRID_CONSTANT TensorMap map, u32 bytes, int c0, int c1, int c2, int c3, int c4) {
  extern __shared__ __align__(1024) u8 s[];
  __shared__ __align__(8) u64 bar;
  const u32 t = threadIdx.x;
  for (u32 i = t; i < bytes / 4; i += 32) reinterpret_cast<u32*>(s)[i] = 0xffffffffu;
  if (t == 0) { mbar_init(smem_u32(&bar), 1); mbar_fence_init(); }
  fence_async();
  __syncthreads();
  if (t == 0) {
    mbar_expect(smem_u32(&bar), bytes);
    asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3}], [%2];"
      :: "r"(smem_u32(s)), "l"(&map), "r"(smem_u32(&bar)), "r"(c0) : "memory");
  }
  mbar_wait(smem_u32(&bar), 0);
  for (u32 i = t; i < bytes / 4; i += 32) out[i] = reinterpret_cast<u32*>(s)[i];
}
extern "C" __global__ void tma_load_2d(const u32* in, u32* out, const GRID_CONSTANT TensorMap map, u32 bytes, int c0, int c1, int c2, int c3, int c4) {
  extern __shared__ __align__(1024) u8 s[];
  __shared__ __align__(8) u64 bar;
  const u32 t = threadIdx.x;
  for (u32 i = t; i < bytes / 4; i += 32) reinterpret_cast<u32*>(s)[i] = 0xffffffffu;
  if (t == 0) { mbar_init(smem_u32(&bar), 1); mbar_fence_init(); }
  fence_async();
  __syncthreads();
  if (t == 0) {
    mbar_expect(smem_u32(&bar), bytes);
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
      :: "r"(smem_u32(s)), "l"(&map), "r"(smem_u32(&bar)), "r"(c0), "r"(c1) : "memory");
  }
  mbar_wait(smem_u32(&bar), 0);
  for (u32 i = t; i < bytes / 4; i += 32) out[i] = reinterpret_cast<u32*>(s)[i];
}
extern "C" __global__ void tma_load_3d(const u32* in, u32* out, const GRID_CONSTANT TensorMap map, u32 bytes, int c0, int c1, int c2, int c3, int c4) {
  extern __shared__ __align__(1024) u8 s[];
  __shared__ __align__(8) u64 bar;
  const u32 t = threadIdx.x;
  for (u32 i = t; i < bytes / 4; i += 32) reinterpret_cast<u32*>(s)[i] = 0xffffffffu;
  if (t == 0) { mbar_init(smem_u32(&bar), 1); mbar_fence_init(); }
  fence_async();
  __syncthreads();
  if (t == 0) {
    mbar_expect(smem_u32(&bar), bytes);
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
      :: "r"(smem_u32(s)), "l"(&map), "r"(smem_u32(&bar)), "r"(c0), "r"(c1), "r"(c2) : "memory");
  }
  mbar_wait(smem_u32(&bar), 0);
  for (u32 i = t; i < bytes / 4; i += 32) out[i] = reinterpret_cast<u32*>(s)[i];
}
extern "C" __global__ void tma_load_4d(const u32* in, u32* out, const GRID_CONSTANT TensorMap map, u32 bytes, int c0, int c1, int c2, int c3, int c4) {
  extern __shared__ __align__(1024) u8 s[];
  __shared__ __align__(8) u64 bar;
  const u32 t = threadIdx.x;
  for (u32 i = t; i < bytes / 4; i += 32) reinterpret_cast<u32*>(s)[i] = 0xffffffffu;
  if (t == 0) { mbar_init(smem_u32(&bar), 1); mbar_fence_init(); }
  fence_async();
  __syncthreads();
  if (t == 0) {
    mbar_expect(smem_u32(&bar), bytes);
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
      :: "r"(smem_u32(s)), "l"(&map), "r"(smem_u32(&bar)), "r"(c0), "r"(c1), "r"(c2), "r"(c3) : "memory");
  }
  mbar_wait(smem_u32(&bar), 0);
  for (u32 i = t; i < bytes / 4; i += 32) out[i] = reinterpret_cast<u32*>(s)[i];
}
extern "C" __global__ void tma_load_5d(const u32* in, u32* out, const GRID_CONSTANT TensorMap map, u32 bytes, int c0, int c1, int c2, int c3, int c4) {
  extern __shared__ __align__(1024) u8 s[];
  __shared__ __align__(8) u64 bar;
  const u32 t = threadIdx.x;
  for (u32 i = t; i < bytes / 4; i += 32) reinterpret_cast<u32*>(s)[i] = 0xffffffffu;
  if (t == 0) { mbar_init(smem_u32(&bar), 1); mbar_fence_init(); }
  fence_async();
  __syncthreads();
  if (t == 0) {
    mbar_expect(smem_u32(&bar), bytes);
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];"
      :: "r"(smem_u32(s)), "l"(&map), "r"(smem_u32(&bar)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4) : "memory");
  }
  mbar_wait(smem_u32(&bar), 0);
  for (u32 i = t; i < bytes / 4; i += 32) out[i] = reinterpret_cast<u32*>(s)[i];
}
extern "C" __global__ void tma_store_2d(const u32* in, u32* out, const GRID_CONSTANT TensorMap map, u32 bytes, int c0, int c1, int, int, int) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x;
  for (u32 i = t; i < bytes / 4; i += 32) reinterpret_cast<u32*>(s)[i] = in[i];
  fence_async();
  __syncthreads();
  if (t == 0)
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;"
      :: "l"(&map), "r"(smem_u32(s)), "r"(c0), "r"(c1) : "memory");
}
extern "C" __global__ void bulk_copy(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[64]; __shared__ __align__(8) u64 bar;
  const u32 t = threadIdx.x;
  if (t == 0) { mbar_init(smem_u32(&bar), 1); mbar_fence_init(); }
  __syncthreads();
  if (t == 0) {
    mbar_expect(smem_u32(&bar), 256);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];" :: "r"(smem_u32(s)), "l"(in), "r"(smem_u32(&bar)) : "memory");
  }
  mbar_wait(smem_u32(&bar), 0);
  s[t] += 1; fence_async(); __syncthreads();
  if (t == 0) asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 256;\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" :: "l"(out), "r"(smem_u32(s)) : "memory");
}
