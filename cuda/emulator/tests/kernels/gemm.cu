#include "device.h"
// C[m,n] = A[m,k] * B[n,k]^T, bf16 in, f32 accumulate, bf16 out. k a multiple of 8, n even; edges are zero-filled.
// 128x128x32 tile, 8 warps of 64x32, 3-stage cp.async, rows of 64 bytes, 16-byte chunks swizzled by (row/2)%4.
struct GemmSmem { bf16 a[3][128 * 32]; bf16 b[3][128 * 32]; };
DEV u32 gemm_off(int row, int chunk) { return (u32)(row * 64 + ((chunk ^ (row >> 1)) & 3) * 16); }
KERNEL(gemm_bf16, 256, 2, (const bf16* A, const bf16* B, bf16* C, int m, int n, int k)) {
  SMEM(sm, GemmSmem);
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5, m0 = blockIdx.y * 128, n0 = blockIdx.x * 128, wm = warp / 4 * 64, wn = warp % 4 * 32;
  const u32 sa = smem_u32(sm.a), sb = smem_u32(sm.b);
  float acc[4][4][4];
  #pragma unroll
  for (int i = 0; i < 4; i++)
    #pragma unroll
    for (int j = 0; j < 4; j++)
      #pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0.f;
  const int steps = (k + 31) / 32;
  auto load = [&](int s) {
    if (s < steps) {
      u32 st = (u32)(s % 3) * 128 * 64;
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        int row = t / 4 + h * 64, ch = t % 4, kk = s * 32 + ch * 8;
#ifdef BUG_GEMM_OOB
        bool in = true;
#else
        bool in = kk < k;
#endif
        bool ia = in && m0 + row < m, ib = in && n0 + row < n;
        cp_async16(sa + st + gemm_off(row, ch), ia ? A + (u64)(m0 + row) * k + kk : A, ia ? 16 : 0);
        cp_async16(sb + st + gemm_off(row, ch), ib ? B + (u64)(n0 + row) * k + kk : B, ib ? 16 : 0);
      }
    }
    cp_async_commit();
  };
  load(0); load(1);
  for (int s = 0; s < steps; s++) {
#ifdef BUG_GEMM_WAIT
    cp_async_wait<2>();
#elif !defined(BUG_GEMM_NOWAIT)
    cp_async_wait<1>();
#endif
#ifndef BUG_GEMM_SYNC
    __syncthreads();
#endif
    load(s + 2);
    u32 st = (u32)(s % 3) * 128 * 64;
    #pragma unroll
    for (int kk = 0; kk < 2; kk++) {
      u32 a[4][4], b[2][4];
      #pragma unroll
      for (int i = 0; i < 4; i++) ldsm_x4(a[i], sa + st + gemm_off(wm + i * 16 + lane % 16, kk * 2 + lane / 16));
      #pragma unroll
      for (int j = 0; j < 2; j++) ldsm_x4(b[j], sb + st + gemm_off(wn + j * 16 + lane % 8 + lane / 16 * 8, kk * 2 + (lane >> 3 & 1)));
      #pragma unroll
      for (int i = 0; i < 4; i++)
        #pragma unroll
        for (int j = 0; j < 4; j++)
#ifdef BUG_GEMM_FRAG
          mma_16816(acc[i][j], a[i], b[j / 2][j % 2], b[j / 2][j % 2 + 2]);
#else
          mma_16816(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
#endif
    }
  }
  #pragma unroll
  for (int i = 0; i < 4; i++)
    #pragma unroll
    for (int j = 0; j < 4; j++)
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        int row = m0 + wm + i * 16 + lane / 4 + h * 8, col = n0 + wn + j * 8 + lane % 4 * 2;
        if (row < m && col < n) *reinterpret_cast<u32*>(C + (u64)row * n + col) = pack_bf16(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
      }
}
