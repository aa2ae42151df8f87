#include "device.h"
// Fused AdamW: f32 master weights and moments, bf16 gradient in, bf16 copy of the weights out. n is a multiple of 4.
KERNEL(adamw, 256, 4, (float* p, uint2* pb, const uint2* g, float* m, float* v, int n, float lr, float b1, float b2, float eps, float wd, float c1, float c2)) {
  for (int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4; i < n; i += gridDim.x * blockDim.x * 4) {
    float4 P = *reinterpret_cast<float4*>(p + i), M = *reinterpret_cast<float4*>(m + i), V = *reinterpret_cast<float4*>(v + i);
    uint2 G = __ldg(g + i / 4);
    float x[4] = {P.x, P.y, P.z, P.w}, mm[4] = {M.x, M.y, M.z, M.w}, vv[4] = {V.x, V.y, V.z, V.w}, gg[4] = {lo_f32(G.x), hi_f32(G.x), lo_f32(G.y), hi_f32(G.y)};
    #pragma unroll
    for (int j = 0; j < 4; j++) {
      mm[j] = b1 * mm[j] + (1.f - b1) * gg[j];
      vv[j] = b2 * vv[j] + (1.f - b2) * gg[j] * gg[j];
      x[j] -= lr * (mm[j] * c1 / (sqrtf(vv[j] * c2) + eps) + wd * x[j]);
    }
    *reinterpret_cast<float4*>(p + i) = make_float4(x[0], x[1], x[2], x[3]);
    *reinterpret_cast<float4*>(m + i) = make_float4(mm[0], mm[1], mm[2], mm[3]);
    *reinterpret_cast<float4*>(v + i) = make_float4(vv[0], vv[1], vv[2], vv[3]);
    pb[i / 4] = make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
  }
}
