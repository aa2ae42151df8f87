// One warpgroup: raw words into shared memory, one wgmma with descriptors built from the arguments, accumulators out.
#include "device.h"
DEV u64 descriptor(u32 addr, u32 lbo, u32 sbo, u32 mode) { return (u64)((addr & 0x3ffff) >> 4) | (u64)(lbo >> 4 & 0x3fff) << 16 | (u64)(sbo >> 4 & 0x3fff) << 32 | (u64)mode << 62; }
extern "C" __global__ void wg_bf16_n64_00(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_bf16_n64_01(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 1;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_bf16_n64_10(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 1, 0;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_bf16_n64_11(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 1, 1;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_bf16_n128_01(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[64];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 64; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, p, 1, 1, 0, 1;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 64; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_f16_n64(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_f16_n64_h(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; u32 d[16];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 16; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k16.f16.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, p, 1, 1, 0, 0;\n}"
    : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]), "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 16; i++) out[i * 128 + t] = d[i];
}
extern "C" __global__ void wg_bf16_n64_reg(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, p, 1, 1, 0;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "r"(in[0 + t]), "r"(in[128 + t]), "r"(in[256 + t]), "r"(in[384 + t]), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_e4m3_n64(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_e4m3_n64_reg(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, p, 1, 1;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "r"(in[0 + t]), "r"(in[128 + t]), "r"(in[256 + t]), "r"(in[384 + t]), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_e5m2_n64(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k32.f32.e5m2.e5m2 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_tf32_n64(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[32];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 32; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_bf16_n8(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[4];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 4; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, p, 1, 1, 0, 0;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 4; i++) out[i * 128 + t] = f32_bits(d[i]);
}
extern "C" __global__ void wg_bf16_n256(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; float d[128];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < 128; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, %128, %129, p, 1, 1, 0, 0;\n}"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127]) : "l"(da), "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < 128; i++) out[i * 128 + t] = f32_bits(d[i]);
}
