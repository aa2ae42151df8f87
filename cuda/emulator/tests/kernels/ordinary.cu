// Ordinary CUDA C++ in many habits; every kernel takes words in, words out and a length.
#define K extern "C" __global__ void
typedef unsigned int u32;
typedef unsigned long long u64;

K bitonic_sort(const int* in, int* out, int n) { // one block of 256
  __shared__ int s[256];
  int t = threadIdx.x;
  s[t] = in[t];
  for (int k = 2; k <= 256; k <<= 1)
    for (int j = k >> 1; j > 0; j >>= 1) {
      __syncthreads();
      int o = t ^ j;
      if (o > t) {
        bool up = (t & k) == 0;
        int a = s[t], b = s[o];
        if ((a > b) == up) { s[t] = b; s[o] = a; }
      }
    }
  __syncthreads();
  out[t] = s[t];
}
K scan_block(const int* in, int* out, int n) { // Hillis and Steele, double buffered
  __shared__ int s[2][256];
  int t = threadIdx.x, from = 0;
  s[0][t] = in[t];
  __syncthreads();
  for (int d = 1; d < 256; d *= 2) {
    s[1 - from][t] = s[from][t] + (t >= d ? s[from][t - d] : 0);
    from = 1 - from;
    __syncthreads();
  }
  out[t] = s[from][t];
}
K scan_warp(const int* in, int* out, int n) {
  __shared__ int sums[8];
  int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31, w = threadIdx.x >> 5;
  int v = i < n ? in[i] : 0;
  for (int d = 1; d < 32; d <<= 1) { int x = __shfl_up_sync(0xffffffff, v, d); if (lane >= d) v += x; }
  if (lane == 31) sums[w] = v;
  __syncthreads();
  if (w == 0) {
    int x = lane < 8 ? sums[lane] : 0;
    for (int d = 1; d < 8; d <<= 1) { int y = __shfl_up_sync(0xffffffff, x, d); if (lane >= d) x += y; }
    if (lane < 8) sums[lane] = x;
  }
  __syncthreads();
  if (i < n) out[i] = v + (w ? sums[w - 1] : 0);
}
K histogram(const int* in, int* out, int n) {
  __shared__ u32 h[64];
  if (threadIdx.x < 64) h[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&h[(u32)in[i] % 64], 1u);
  __syncthreads();
  if (threadIdx.x < 64) atomicAdd((u32*)out + threadIdx.x, h[threadIdx.x]);
}
K byte_histogram(const int* in, int* out, int n) { // a column of bytes per thread
  __shared__ unsigned char h[16][64];
  int t = threadIdx.x;
  if (t < 64) {
    for (int b = 0; b < 16; b++) h[b][t] = 0;
    for (int i = t; i < n; i += 64) h[in[i] & 15][t]++;
  }
  __syncthreads();
  if (t < 16) { int s = 0; for (int j = 0; j < 64; j++) s += h[t][j]; out[t] = s; }
}
K transpose(const float* in, float* out, int n) { // n x n
  __shared__ float tile[32][33];
  int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
  for (int j = 0; j < 32; j += 8) if (x < n && y + j < n) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * n + x];
  __syncthreads();
  x = blockIdx.y * 32 + threadIdx.x; y = blockIdx.x * 32 + threadIdx.y;
  for (int j = 0; j < 32; j += 8) if (x < n && y + j < n) out[(y + j) * n + x] = tile[threadIdx.x][threadIdx.y + j];
}
K stencil(const float* in, float* out, int n) {
  __shared__ float s[256 + 6];
  int g = blockIdx.x * blockDim.x + threadIdx.x, l = threadIdx.x + 3;
  s[l] = g < n ? in[g] : 0.f;
  if (threadIdx.x < 3) {
    s[l - 3] = g >= 3 ? in[g - 3] : 0.f;
    s[l + 256] = g + 256 < n ? in[g + 256] : 0.f;
  }
  __syncthreads();
  float r = 0;
  for (int o = -3; o <= 3; o++) r += s[l + o];
  if (g < n) out[g] = r;
}
template <int B> __device__ float block_sum(float v) {
  static __shared__ float part[B / 32];
  #pragma unroll
  for (int o = 16; o > 0; o /= 2) v += __shfl_down_sync(~0u, v, o);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  v = threadIdx.x < B / 32 ? part[threadIdx.x] : 0.f;
  if (threadIdx.x < 32) for (int o = B / 64; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o);
  return v;
}
K reduce_float(const float* in, float* out, int n) {
  float v = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) v += in[i];
  v = block_sum<256>(v);
  if (threadIdx.x == 0) *out = v;
}
__device__ u32 arrived;
K last_block_sum(const int* in, int* out, int n) { // out[1 + block] partial, out[0] total
  __shared__ int s[256];
  __shared__ bool last;
  int t = threadIdx.x, i = blockIdx.x * 256 + t;
  s[t] = i < n ? in[i] : 0;
  __syncthreads();
  for (int d = 128; d; d >>= 1) { if (t < d) s[t] += s[t + d]; __syncthreads(); }
  if (t == 0) {
    out[1 + blockIdx.x] = s[0];
    __threadfence();
    last = atomicAdd(&arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && t == 0) {
    int r = 0;
    for (int b = 0; b < gridDim.x; b++) r += ((volatile int*)out)[1 + b];
    out[0] = r; arrived = 0;
  }
}
struct Node { int key, left, right; };
K tree_walk(const int* in, int* out, int n) { // n nodes of three words, then queries follow
  const Node* nodes = (const Node*)in;
  int i = threadIdx.x, at = 0, stack[16], top = 0, sum = 0;
  stack[top++] = 0;
  while (top) {
    at = stack[--top];
    if (nodes[at].key % 7 != i % 7) sum += nodes[at].key;
    if (nodes[at].left >= 0) stack[top++] = nodes[at].left;
    if (nodes[at].right >= 0) stack[top++] = nodes[at].right;
  }
  out[i] = sum;
}
K double_math(const double* in, double* out, int n) {
  int i = threadIdx.x;
  double x = in[i];
  out[i] = sin(x) + cos(x) * exp(-x * x) + log1p(fabs(x)) + sqrt(fabs(x)) + pow(fabs(x) + 1., 1.7) + atan2(x, 2.) + tanh(x) + erf(x) + floor(x) + fmod(x, .3) + cbrt(x);
}
K float_math(const float* in, float* out, int n) {
  int i = threadIdx.x;
  float x = in[i];
  out[i] = sinf(x * 100.f) + cosf(x) + tanf(x) + expf(x) + logf(fabsf(x) + 1.f) + powf(fabsf(x), 1.3f) + atanf(x) + rsqrtf(fabsf(x) + .1f) + fmodf(x, .3f) + rintf(x * 3.f) + hypotf(x, 2.f) + erff(x);
}
K switch_table(const int* in, int* out, int n) {
  int i = threadIdx.x, v = in[i], r;
  switch (v & 15) {
    case 0: r = v + 3; break; case 1: r = v * 5; break; case 2: r = v ^ 7; break; case 3: r = v - 11; break;
    case 4: r = v * v; break; case 5: r = v << 3; break; case 6: r = ~v; break; case 7: r = v / 7; break;
    case 8: r = v % 13; break; case 9: r = __popc(v); break; case 10: r = __clz(v); break; case 11: r = (int)__brev((u32)v); break;
    case 12: r = __ffs(v); break; default: r = 1000 / ((v & 3) + 1);
  }
  out[i] = r;
}
K long_division(const u64* in, u64* out, int n) {
  int i = threadIdx.x;
  u64 a = in[i], b = in[(i + 1) % n] >> (i % 50) | 1;
  out[3 * i] = a / b; out[3 * i + 1] = a % b + __umul64hi(a, b); out[3 * i + 2] = (u64)((long long)a / (long long)b) + (u64)__popcll(a) + (a << (i & 63)) + (a >> (b & 63));
}
__device__ __noinline__ int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }
K recursion(const int* in, int* out, int n) { out[threadIdx.x] = gcd(in[threadIdx.x] & 0xffff, in[(threadIdx.x + 1) % n] & 0xff); }
typedef int (*Fn)(int);
__device__ __noinline__ int twice(int x) { return 2 * x; }
__device__ __noinline__ int square(int x) { return x * x; }
__device__ __noinline__ int negate(int x) { return -x; }
__device__ Fn table[3] = {twice, square, negate};
K function_pointers(const int* in, int* out, int n) { out[threadIdx.x] = table[(u32)in[threadIdx.x] % 3](in[threadIdx.x] & 0xfff) + 1; }
__constant__ float weights[5] = {.1f, .2f, .4f, .2f, .1f};
K convolve(const float* in, float* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float s = 0;
  for (int k = -2; k <= 2; k++) { int j = min(max(i + k, 0), n - 1); s = fmaf(weights[k + 2], in[j], s); }
  out[i] = s;
}
K compact(const int* in, int* out, int n) { // out[0] counts, order by warp
  __shared__ int base[8];
  __shared__ int total;
  int t = threadIdx.x, lane = t & 31, w = t >> 5;
  bool keep = in[t] & 1;
  u32 votes = __ballot_sync(~0u, keep);
  if (lane == 0) base[w] = __popc(votes);
  __syncthreads();
  if (t == 0) { int s = 0; for (int i = 0; i < 8; i++) { int x = base[i]; base[i] = s; s += x; } total = s; }
  __syncthreads();
  if (keep) out[1 + base[w] + __popc(votes & ((1u << lane) - 1))] = in[t];
  if (t == 0) out[0] = total;
}
__device__ double cas_add(double* p, double v) {
  u64* a = (u64*)p; u64 old = *a, seen;
  do { seen = old; old = atomicCAS(a, seen, __double_as_longlong(v + __longlong_as_double(seen))); } while (seen != old);
  return __longlong_as_double(old);
}
K cas_loop(const int* in, double* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) cas_add(out, (double)(in[i] & 255));
}
K matmul_tiled(const float* in, float* out, int n) { // A then B, n x n
  __shared__ float a[16][16], b[16][16];
  int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
  float s = 0;
  for (int k = 0; k < n; k += 16) {
    a[threadIdx.y][threadIdx.x] = y < n && k + threadIdx.x < n ? in[y * n + k + threadIdx.x] : 0.f;
    b[threadIdx.y][threadIdx.x] = x < n && k + threadIdx.y < n ? in[n * n + (k + threadIdx.y) * n + x] : 0.f;
    __syncthreads();
    for (int j = 0; j < 16; j++) s += a[threadIdx.y][j] * b[j][threadIdx.x];
    __syncthreads();
  }
  if (x < n && y < n) out[y * n + x] = s;
}
K spin_lock(const int* in, int* out, int n) { // one thread per warp takes a lock
  __shared__ int lock, sum;
  if (threadIdx.x == 0) { lock = 0; sum = 0; }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    while (atomicCAS(&lock, 0, 1) != 0) {}
    __threadfence();
    atomicAdd(&sum, in[threadIdx.x]);
    __threadfence();
    atomicExch(&lock, 0);
  }
  __syncthreads();
  if (threadIdx.x == 0) out[0] = sum;
}
K collatz(const int* in, int* out, int n) { // deep divergence
  u32 v = (in[threadIdx.x] & 0x3ff) + 1; int steps = 0;
  while (v != 1) { if (v & 1) v = 3 * v + 1; else v >>= 1; if (++steps > 500) break; }
  out[threadIdx.x] = steps;
}
K match_groups(const int* in, int* out, int n) {
  int v = in[threadIdx.x] & 3;
  u32 same = __match_any_sync(~0u, v);
  int all; __match_all_sync(~0u, v, &all);
  out[threadIdx.x] = (int)(same * 2) + all + __reduce_add_sync(~0u, (u32)v) + __syncthreads_count(v == 2);
}
struct Shape { virtual __device__ float area() const = 0; };
struct Square : Shape { float s; __device__ Square(float s) : s(s) {} __device__ float area() const override { return s * s; } };
struct Circle : Shape { float r; __device__ Circle(float r) : r(r) {} __device__ float area() const override { return 3.f * r * r; } };
K virtual_calls(const float* in, float* out, int n) {
  Square a(in[threadIdx.x]); Circle b(in[threadIdx.x] + 1.f);
  const Shape* s = in[threadIdx.x] > 0.f ? (const Shape*)&a : (const Shape*)&b;
  out[threadIdx.x] = s->area();
}
