// One warp: registers of A, B and C as words by lane, one mma.sync, registers of D out.
#include "device.h"
extern "C" __global__ void mma_m16n8k16_bf16(const u32* in, u32* out) {
  const u32 l = threadIdx.x; float d[4];
  for (int i = 0; i < 4; i++) d[i] = bits_f32(in[(i + 6) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]), "r"(in[128 + l]), "r"(in[160 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = f32_bits(d[i]);
}
extern "C" __global__ void mma_m16n8k8_bf16(const u32* in, u32* out) {
  const u32 l = threadIdx.x; float d[4];
  for (int i = 0; i < 4; i++) d[i] = bits_f32(in[(i + 3) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = f32_bits(d[i]);
}
extern "C" __global__ void mma_m16n8k16_f16(const u32* in, u32* out) {
  const u32 l = threadIdx.x; float d[4];
  for (int i = 0; i < 4; i++) d[i] = bits_f32(in[(i + 6) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]), "r"(in[128 + l]), "r"(in[160 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = f32_bits(d[i]);
}
extern "C" __global__ void mma_m16n8k8_f16(const u32* in, u32* out) {
  const u32 l = threadIdx.x; float d[4];
  for (int i = 0; i < 4; i++) d[i] = bits_f32(in[(i + 3) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = f32_bits(d[i]);
}
extern "C" __global__ void mma_m16n8k8_tf32(const u32* in, u32* out) {
  const u32 l = threadIdx.x; float d[4];
  for (int i = 0; i < 4; i++) d[i] = bits_f32(in[(i + 6) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]), "r"(in[128 + l]), "r"(in[160 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = f32_bits(d[i]);
}
extern "C" __global__ void mma_m16n8k4_tf32(const u32* in, u32* out) {
  const u32 l = threadIdx.x; float d[4];
  for (int i = 0; i < 4; i++) d[i] = bits_f32(in[(i + 3) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = f32_bits(d[i]);
}
extern "C" __global__ void mma_m16n8k32_e4m3(const u32* in, u32* out) {
  const u32 l = threadIdx.x; float d[4];
  for (int i = 0; i < 4; i++) d[i] = bits_f32(in[(i + 6) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]), "r"(in[128 + l]), "r"(in[160 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = f32_bits(d[i]);
}
extern "C" __global__ void mma_m16n8k32_e5m2(const u32* in, u32* out) {
  const u32 l = threadIdx.x; float d[4];
  for (int i = 0; i < 4; i++) d[i] = bits_f32(in[(i + 6) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]), "r"(in[128 + l]), "r"(in[160 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = f32_bits(d[i]);
}
extern "C" __global__ void mma_m16n8k32_s8(const u32* in, u32* out) {
  const u32 l = threadIdx.x; u32 d[4];
  for (int i = 0; i < 4; i++) d[i] = (in[(i + 6) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]), "r"(in[128 + l]), "r"(in[160 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = (d[i]);
}
extern "C" __global__ void mma_m16n8k16_s8(const u32* in, u32* out) {
  const u32 l = threadIdx.x; u32 d[4];
  for (int i = 0; i < 4; i++) d[i] = (in[(i + 3) * 32 + l]);
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
    : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(in[0 + l]), "r"(in[32 + l]), "r"(in[64 + l]));
  for (int i = 0; i < 4; i++) out[i * 32 + l] = (d[i]);
}
extern "C" __global__ void mma_m16n8k16_f16_f16(const u32* in, u32* out) {
  const u32 l = threadIdx.x; u32 d[2] = {in[192 + l], in[224 + l]};
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
    : "+r"(d[0]), "+r"(d[1]) : "r"(in[l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]), "r"(in[128 + l]), "r"(in[160 + l]));
  out[l] = d[0]; out[32 + l] = d[1];
}
