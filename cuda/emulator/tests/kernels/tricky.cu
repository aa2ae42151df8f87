#include "device.h"
// Correct kernels that a careless checker would complain about; every thread writes 1 if all is well.
#define K extern "C" __global__ void
K producer_consumer(u32* out) { // warp 0 fills, warp 1 reads, by two named barriers
  __shared__ u32 s[32]; u32 lane = threadIdx.x % 32, ok = 1;
  for (u32 i = 0; i < 5; i++) {
    if (threadIdx.x < 32) { if (i) bar_sync(2, 64); s[lane] = i * 100 + lane; asm volatile("bar.arrive 1, 64;" ::: "memory"); }
    else { bar_sync(1, 64); ok &= s[31 - lane] == i * 100 + 31 - lane; if (i < 4) asm volatile("bar.arrive 2, 64;" ::: "memory"); }
  }
  out[threadIdx.x] = ok;
}
K partial_masks(u32* out) { // two halves shuffle apart from each other
  u32 lane = threadIdx.x % 32, v = lane;
  if (lane < 16) for (int o = 8; o; o /= 2) v += __shfl_xor_sync(0x0000ffffu, v, o);
  else for (int o = 8; o; o /= 2) v += __shfl_xor_sync(0xffff0000u, v, o);
  __syncwarp();
  out[threadIdx.x] = v == (lane < 16 ? 120u : 376u);
}
K active_mask(u32* out) {
  u32 lane = threadIdx.x % 32; out[threadIdx.x] = 1;
  if (lane % 3 == 0) { u32 m = __activemask(); out[threadIdx.x] = __popc(__ballot_sync(m, 1)) == 11 && __shfl_sync(m, lane, 3) == 3; }
}
K flag_in_shared(u32* out) { // data, fence, flag
  __shared__ u32 data; __shared__ volatile u32 flag;
  if (threadIdx.x == 0) flag = 0;
  __syncthreads();
  if (threadIdx.x == 0) { data = 42; __threadfence_block(); flag = 1; out[0] = 1; }
  if (threadIdx.x == 32) { while (!flag) {} __threadfence_block(); out[32] = data == 42; }
  if (threadIdx.x % 32) out[threadIdx.x] = 1;
}
K bytes_side_by_side(u32* out) {
  __shared__ u8 b[256]; __shared__ bool f[256];
  u32 t = threadIdx.x; b[t] = t; b[t] = b[t] + 1; f[t] = t & 1; f[t] = !f[t];
  __syncthreads();
  out[t] = b[255 - t] == (u8)(256 - t) && f[255 - t] == !((255 - t) & 1);
}
K same_flag(u32* out) { // all write the same value
  __shared__ u32 any; any = 0; __syncthreads(); if (threadIdx.x % 2) any = 1; __syncthreads(); out[threadIdx.x] = any;
}
K async_mbarrier(u32* out) { // cp.async completes on an mbarrier
  __shared__ __align__(16) u32 s[4 * 64]; __shared__ u64 bar; u32 t = threadIdx.x;
  u32* g = out + 1024;
  if (t == 0) mbar_init(smem_u32(&bar), 64);
  __syncthreads();
  cp_async16(smem_u32(&s[4 * t]), g + 4 * t);
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(smem_u32(&bar)) : "memory");
  mbar_wait(smem_u32(&bar), 0);
  out[t] = s[255 - 4 * t] == 255 - 4 * t;
}
K each_lane_arrives(u32* out) { // consumers free the buffer lane by lane
  __shared__ u32 s[32]; __shared__ u64 full, empty; u32 lane = threadIdx.x % 32, ok = 1;
  if (threadIdx.x == 0) { mbar_init(smem_u32(&full), 32); mbar_init(smem_u32(&empty), 64); }
  __syncthreads();
  for (u32 i = 0; i < 4; i++) {
    if (threadIdx.x < 32) { if (i) mbar_wait(smem_u32(&empty), (i - 1) & 1); s[lane] = i + lane; mbar_arrive(smem_u32(&full)); }
    else { mbar_wait(smem_u32(&full), i & 1); ok &= s[lane ^ 5] == i + (lane ^ 5); mbar_arrive(smem_u32(&empty)); }
  }
  out[threadIdx.x] = ok;
}
K lane_split_pipeline(u32* out) { // producer and consumer in one warp
  __shared__ u32 s; __shared__ u64 bar; u32 t = threadIdx.x;
  if (t == 0) mbar_init(smem_u32(&bar), 1);
  __syncwarp();
  if (t == 31) { s = 7; mbar_arrive(smem_u32(&bar)); out[t] = 1; }
  else { mbar_wait(smem_u32(&bar), 0); out[t] = s == 7; }
}
__device__ u32 next, sums[8], ready[8];
K look_back(u32* out) { // block b waits for block b - 1
  __shared__ u32 id;
  if (threadIdx.x == 0) {
    id = atomicAdd(&next, 1); u32 before = 0;
    if (id) { while (atomicAdd(&ready[id - 1], 0) == 0) {} __threadfence(); before = *(volatile u32*)&sums[id - 1]; }
    *(volatile u32*)&sums[id] = before + id; __threadfence(); atomicExch(&ready[id], 1);
    out[blockIdx.x * blockDim.x] = before + id == id * (id + 1) / 2;
  } else out[blockIdx.x * blockDim.x + threadIdx.x] = 1;
}
K early_exit(u32* out) { // a whole path leaves at once
  if (threadIdx.x >= 40) { out[threadIdx.x] = 1; return; }
  out[threadIdx.x] = 1;
}
K half_atomics(u32* out) {
  __shared__ u32 h; u32 t = threadIdx.x; if (t == 0) h = 0; __syncthreads();
  u32 old; asm volatile("atom.shared.add.noftz.f16x2 %0, [%1], %2;" : "=r"(old) : "r"(smem_u32(&h)), "r"(0x3c003c00u) : "memory");
  __syncthreads(); out[t] = h == 0x54005400u; // 64 ones
}
K cluster_of_one(u32* out) {
  u32 r, n; asm volatile("mov.u32 %0, %%cluster_ctarank; mov.u32 %1, %%cluster_nctarank;" : "=r"(r), "=r"(n));
  __shared__ u32 s; if (threadIdx.x == 0) s = 5;
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
  u32 a; asm volatile("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(a) : "r"(smem_u32(&s)));
  u32 v; asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(a) : "memory");
  out[threadIdx.x] = r == 0 && n == 1 && v == 5;
}
K tma_store_epilogue(u32* out) {
  __shared__ __align__(128) u32 s[64]; u32 t = threadIdx.x;
  s[t] = 1; fence_async(); __syncthreads();
  if (t == 0) { asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 256; cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;" :: "l"(out), "r"(smem_u32(s)) : "memory"); }
  __syncthreads();
  s[t] = 9; // the copy has read it
}
K registers(u32* out) { reg_dec<40>(); reg_inc<232>(); out[threadIdx.x] = 1; }
K elected(u32* out) {
  u32 p; asm volatile("{.reg .pred q; elect.sync _|q, 0xffffffff; selp.u32 %0, 1, 0, q;}" : "=r"(p));
  out[threadIdx.x] = __popc(__ballot_sync(~0u, p)) == 1;
}
K nested_loops(u32* out) {
  u32 t = threadIdx.x, n = 0;
  for (u32 i = 0; i < t % 7; i++) { if (i == 5) continue; for (u32 j = 0; j < t % 5; j++) { if ((i + j) % 4 == 3) break; n += i ^ j; } __syncwarp(__activemask()); }
  u32 m = 0; for (u32 i = 0; i < t % 7; i++) { if (i != 5) for (u32 j = 0; j < t % 5 && (i + j) % 4 != 3; j++) m += i ^ j; }
  out[t] = n == m && __syncthreads_and(1);
}
