#include "device.h"
// y = x * rstd * w, one block per row of d (multiple of 8) bf16; stores rstd for the backward pass.
KERNEL(rmsnorm_fwd, 256, 4, (const bf16* x, const bf16* w, bf16* y, float* rstd, int d, float eps)) {
  SHARED(red, float[8]);
  const uint4* xr = reinterpret_cast<const uint4*>(x + (u64)blockIdx.x * d);
  const uint4* wr = reinterpret_cast<const uint4*>(w);
  uint4* yr = reinterpret_cast<uint4*>(y + (u64)blockIdx.x * d);
  float s = 0.f;
  for (int i = threadIdx.x; i < d / 8; i += blockDim.x) {
    uint4 q = xr[i]; u32 u[4] = {q.x, q.y, q.z, q.w};
    #pragma unroll
    for (int j = 0; j < 4; j++) s += lo_f32(u[j]) * lo_f32(u[j]) + hi_f32(u[j]) * hi_f32(u[j]);
  }
  #pragma unroll
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
  if (threadIdx.x % 32 == 0) red[threadIdx.x / 32] = s;
#ifndef BUG_RMS_SYNC
  __syncthreads();
#endif
  s = 0.f;
  for (int i = 0; i < (int)blockDim.x / 32; i++) s += red[i];
  float r = rsqrtf(s / d + eps);
  if (threadIdx.x == 0) rstd[blockIdx.x] = r;
#ifdef BUG_RMS_OOB
  for (int i = threadIdx.x; i <= d / 8; i += blockDim.x) {
#else
  for (int i = threadIdx.x; i < d / 8; i += blockDim.x) {
#endif
    uint4 q = xr[i], k = __ldg(wr + i); u32 u[4] = {q.x, q.y, q.z, q.w}, v[4] = {k.x, k.y, k.z, k.w};
    #pragma unroll
    for (int j = 0; j < 4; j++) u[j] = pack_bf16(lo_f32(u[j]) * r * lo_f32(v[j]), hi_f32(u[j]) * r * hi_f32(v[j]));
    yr[i] = make_uint4(u[0], u[1], u[2], u[3]);
  }
}
