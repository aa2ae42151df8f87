// ldmatrix, stmatrix and movmatrix: raw words of shared memory and of registers.
#include "device.h"
extern "C" __global__ void ldmatrix_x1(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[1];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(a) : "memory");
  for (int i = 0; i < 1; i++) out[i * 32 + l] = r[i];
}
extern "C" __global__ void stmatrix_x1(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[1];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = 0;
  for (int i = 0; i < 1; i++) r[i] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" :: "r"(a), "r"(r[0]) : "memory");
  __syncthreads();
  for (int i = 0; i < 8; i++) out[i * 32 + l] = s[i * 32 + l];
}
extern "C" __global__ void ldmatrix_x1trans(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[1];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(a) : "memory");
  for (int i = 0; i < 1; i++) out[i * 32 + l] = r[i];
}
extern "C" __global__ void stmatrix_x1trans(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[1];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = 0;
  for (int i = 0; i < 1; i++) r[i] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" :: "r"(a), "r"(r[0]) : "memory");
  __syncthreads();
  for (int i = 0; i < 8; i++) out[i * 32 + l] = s[i * 32 + l];
}
extern "C" __global__ void ldmatrix_x2(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[2];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(a) : "memory");
  for (int i = 0; i < 2; i++) out[i * 32 + l] = r[i];
}
extern "C" __global__ void stmatrix_x2(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[2];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = 0;
  for (int i = 0; i < 2; i++) r[i] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1,%2};" :: "r"(a), "r"(r[0]), "r"(r[1]) : "memory");
  __syncthreads();
  for (int i = 0; i < 8; i++) out[i * 32 + l] = s[i * 32 + l];
}
extern "C" __global__ void ldmatrix_x2trans(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[2];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(a) : "memory");
  for (int i = 0; i < 2; i++) out[i * 32 + l] = r[i];
}
extern "C" __global__ void stmatrix_x2trans(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[2];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = 0;
  for (int i = 0; i < 2; i++) r[i] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1,%2};" :: "r"(a), "r"(r[0]), "r"(r[1]) : "memory");
  __syncthreads();
  for (int i = 0; i < 8; i++) out[i * 32 + l] = s[i * 32 + l];
}
extern "C" __global__ void ldmatrix_x4(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[4];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
  for (int i = 0; i < 4; i++) out[i * 32 + l] = r[i];
}
extern "C" __global__ void stmatrix_x4(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[4];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = 0;
  for (int i = 0; i < 4; i++) r[i] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" :: "r"(a), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
  __syncthreads();
  for (int i = 0; i < 8; i++) out[i * 32 + l] = s[i * 32 + l];
}
extern "C" __global__ void ldmatrix_x4trans(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[4];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
  for (int i = 0; i < 4; i++) out[i * 32 + l] = r[i];
}
extern "C" __global__ void stmatrix_x4trans(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[4];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = 0;
  for (int i = 0; i < 4; i++) r[i] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" :: "r"(a), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
  __syncthreads();
  for (int i = 0; i < 8; i++) out[i * 32 + l] = s[i * 32 + l];
}
extern "C" __global__ void movmatrix(const u32* in, u32* out) {
  u32 d; asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(in[threadIdx.x])); out[threadIdx.x] = d;
}
