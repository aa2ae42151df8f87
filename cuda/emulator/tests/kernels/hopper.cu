#include "device.h"
// Minimal Hopper pipeline: C[64,64] = A[64,k] * B^T (B [64,k], TB = 0) or A * B (B [k,64], TB = 1); warp 4 loads by TMA into a 2-stage ring, warps 0-3 do wgmma.
struct HopSmem { bf16 a[2][64 * 64]; bf16 b[2][64 * 64]; u64 full[2], empty[2]; };
template <int TB> DEV void hopper_body(const TensorMap* ta, const TensorMap* tb, float* C, int k) {
  SMEM(sm, HopSmem);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, steps = k / 64;
  const u32 sa = smem_u32(sm.a), sb = smem_u32(sm.b), full = smem_u32(sm.full), empty = smem_u32(sm.empty);
  if (threadIdx.x == 0) { for (int i = 0; i < 2; i++) { mbar_init(full + i * 8, 1); mbar_init(empty + i * 8, 4); } mbar_fence_init(); }
  __syncthreads();
  if (warp == 4) {
    if (lane == 0)
      for (int s = 0; s < steps; s++) {
        const u32 st = s & 1;
#ifndef BUG_HOP_EMPTY
        mbar_wait(empty + st * 8, (s / 2 & 1) ^ 1);
#endif
        mbar_expect(full + st * 8, 16384);
        tma_load_2d(sa + st * 8192, ta, full + st * 8, s * 64, 0);
        if (TB) tma_load_2d(sb + st * 8192, tb, full + st * 8, 0, s * 64); else tma_load_2d(sb + st * 8192, tb, full + st * 8, s * 64, 0);
      }
    return;
  }
  float d[32];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0.f;
  for (int s = 0; s < steps; s++) {
    const u32 st = s & 1;
#ifndef BUG_HOP_FULL
    mbar_wait(full + st * 8, s / 2 & 1);
#endif
    wgmma_fence();
    #pragma unroll
    for (int kk = 0; kk < 4; kk++) {
      u64 da = desc_sw128(sa + st * 8192 + kk * 32, 16, 1024);
      u64 db = TB ? desc_sw128(sb + st * 8192 + kk * 2048, 8192, 1024) : desc_sw128(sb + st * 8192 + kk * 32, 16, 1024);
#ifdef BUG_HOP_DESC
      da = desc_sw128(sa + st * 8192 + kk * 32, 16, 512);
#endif
      wgmma_m64n64k16<0, TB>(d, da, db, 1);
    }
    wgmma_commit();
#ifdef BUG_HOP_EARLY
    if (lane == 0) mbar_arrive(empty + st * 8);
    wgmma_wait<0>();
#else
#ifndef BUG_HOP_WAIT
    wgmma_wait<0>();
#endif
    if (lane == 0) mbar_arrive(empty + st * 8);
#endif
  }
#ifdef BUG_HOP_WAIT
  C[0] = d[0]; wgmma_wait<0>();
#endif
  #pragma unroll
  for (int i = 0; i < 32; i++) C[(warp * 16 + lane / 4 + (i / 2 & 1) * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + (i & 1)] = d[i];
}
KERNEL(hopper_nt, 160, 1, (const GRID_CONSTANT TensorMap ta, const GRID_CONSTANT TensorMap tb, float* C, int k)) { hopper_body<0>(&ta, &tb, C, k); }
KERNEL(hopper_nn, 160, 1, (const GRID_CONSTANT TensorMap ta, const GRID_CONSTANT TensorMap tb, float* C, int k)) { hopper_body<1>(&ta, &tb, C, k); }
