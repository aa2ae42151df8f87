#include "device.h"
// Causal flash attention forward, head_dim 64: q,k,v,o are [B*H, S, 64] bf16, lse [B*H, S] f32.
// One block = 64 queries (4 warps of 16 rows); K and V tiles of 64 rows, double buffered by cp.async; 128-byte rows, chunk ^= row % 8.
struct FlashSmem { bf16 q[64 * 64]; bf16 k[2][64 * 64]; bf16 v[2][64 * 64]; };
DEV u32 fl_off(int row, int chunk) { return (u32)(row * 128 + ((chunk ^ row) & 7) * 16); }
KERNEL(flash_fwd, 128, 3, (const bf16* q, const bf16* k, const bf16* v, bf16* o, float* lse, int s, float scale)) {
  SMEM(sm, FlashSmem);
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5, q0 = (gridDim.x - 1 - blockIdx.x) * 64;
  const u64 base = (u64)blockIdx.y * s * 64;
  const u32 sq = smem_u32(sm.q), sk = smem_u32(sm.k), sv = smem_u32(sm.v);
  const float sl2 = scale * 1.4426950408889634f;
  auto tile = [&](u32 dst, const bf16* src, int r0) {
    #pragma unroll
    for (int i = 0; i < 4; i++) {
      int row = i * 16 + t / 8, ch = t % 8; bool in = r0 + row < s;
      cp_async16(dst + fl_off(row, ch), in ? src + base + (u64)(r0 + row) * 64 + ch * 8 : src, in ? 16 : 0);
    }
  };
  tile(sq, q, q0); tile(sk, k, 0); cp_async_commit();
  tile(sv, v, 0); cp_async_commit();
  u32 qf[4][4];
  float acc[8][4], mx[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
  #pragma unroll
  for (int j = 0; j < 8; j++)
    #pragma unroll
    for (int e = 0; e < 4; e++) acc[j][e] = 0.f;
  const int tiles = q0 / 64 + 1;
  for (int kt = 0; kt < tiles; kt++) {
    const u32 kb = sk + (kt & 1) * 8192, vb = sv + (kt & 1) * 8192;
#ifndef BUG_FLASH_WAITK
    cp_async_wait<1>();            // this tile's K
#endif
    __syncthreads();
    if (kt == 0) {
      #pragma unroll
      for (int c = 0; c < 4; c++) ldsm_x4(qf[c], sq + fl_off(warp * 16 + lane % 16, c * 2 + lane / 16));
    }
    if (kt + 1 < tiles) tile(sk + (~kt & 1) * 8192, k, (kt + 1) * 64);
    cp_async_commit();
    float p[8][4];
    #pragma unroll
    for (int j = 0; j < 8; j++)
      #pragma unroll
      for (int e = 0; e < 4; e++) p[j][e] = 0.f;
    #pragma unroll
    for (int c = 0; c < 4; c++)
      #pragma unroll
      for (int j = 0; j < 4; j++) {
        u32 b[4]; ldsm_x4(b, kb + fl_off(j * 16 + lane % 8 + lane / 16 * 8, c * 2 + (lane >> 3 & 1)));
        mma_16816(p[j * 2], qf[c], b[0], b[1]); mma_16816(p[j * 2 + 1], qf[c], b[2], b[3]);
      }
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = q0 + warp * 16 + lane / 4 + h * 8;
      float x = mx[h];
      #pragma unroll
      for (int j = 0; j < 8; j++)
        #pragma unroll
        for (int e = 0; e < 2; e++) {
          int col = kt * 64 + j * 8 + lane % 4 * 2 + e;
#ifdef BUG_FLASH_MASK
          if (col >= row) p[j][h * 2 + e] = -INFINITY;
#else
          if (col > row) p[j][h * 2 + e] = -INFINITY;
#endif
          x = fmaxf(x, p[j][h * 2 + e]);
        }
      x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1)); x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
      float f = ex2((mx[h] - x) * sl2); mx[h] = x; sum[h] *= f;
      #pragma unroll
      for (int j = 0; j < 8; j++) {
        acc[j][h * 2] *= f; acc[j][h * 2 + 1] *= f;
        p[j][h * 2] = ex2((p[j][h * 2] - x) * sl2); p[j][h * 2 + 1] = ex2((p[j][h * 2 + 1] - x) * sl2);
        sum[h] += p[j][h * 2] + p[j][h * 2 + 1];
      }
    }
#ifndef BUG_FLASH_WAITV
    cp_async_wait<1>();            // this tile's V
#endif
#ifndef BUG_FLASH_SYNCV
    __syncthreads();
#endif
    if (kt + 1 < tiles) tile(sv + (~kt & 1) * 8192, v, (kt + 1) * 64);
    cp_async_commit();
    #pragma unroll
    for (int c = 0; c < 4; c++) {
      u32 a[4] = {pack_bf16(p[c * 2][0], p[c * 2][1]), pack_bf16(p[c * 2][2], p[c * 2][3]), pack_bf16(p[c * 2 + 1][0], p[c * 2 + 1][1]), pack_bf16(p[c * 2 + 1][2], p[c * 2 + 1][3])};
#ifdef BUG_FLASH_FRAG
      u32 sw = a[1]; a[1] = a[2]; a[2] = sw;
#endif
      #pragma unroll
      for (int j = 0; j < 4; j++) {
        u32 b[4]; ldsm_x4_t(b, vb + fl_off(c * 16 + lane % 16, j * 2 + lane / 16));
        mma_16816(acc[j * 2], a, b[0], b[1]); mma_16816(acc[j * 2 + 1], a, b[2], b[3]);
      }
    }
  }
  #pragma unroll
  for (int h = 0; h < 2; h++) {
#ifdef BUG_FLASH_DIVSHFL
    if (lane < 16)
#endif
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
    const int row = q0 + warp * 16 + lane / 4 + h * 8; const float inv = 1.f / sum[h];
#ifdef BUG_FLASH_OOB
    if (row <= s) {
#else
    if (row < s) {
#endif
      #pragma unroll
      for (int j = 0; j < 8; j++) *reinterpret_cast<u32*>(o + base + (u64)row * 64 + j * 8 + lane % 4 * 2) = pack_bf16(acc[j][h * 2] * inv, acc[j][h * 2 + 1] * inv);
      if (lane % 4 == 0) lse[(u64)blockIdx.y * s + row] = mx[h] * scale + __logf(sum[h]);
    }
  }
}
