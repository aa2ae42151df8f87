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

// ---- structs, templates and operators
struct Vec3 { float x, y, z; };
__device__ inline Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
template <class T> struct Max { static __device__ T id() { return T(-1e30f); } __device__ T operator()(T a, T b) const { return a > b ? a : b; } };
template <class T> struct Add { static __device__ T id() { return T(0); } __device__ T operator()(T a, T b) const { return a + b; } };
template <class T, class Op, int N> __device__ T fold(T v, T* s, Op op) {
  s[threadIdx.x] = v;
  __syncthreads();
  for (int d = N / 2; d; d >>= 1) {
    T o = threadIdx.x + d < N ? s[threadIdx.x + d] : Op::id();
    __syncthreads();
    if (threadIdx.x < d) s[threadIdx.x] = op(s[threadIdx.x], o);
    __syncthreads();
  }
  T r = s[0];
  __syncthreads();
  return r;
}
K struct_fold(const float* in, float* out, int n) { // n / 3 vectors, grid-stride; out: sums of x, y, z, then the largest x per block
  __shared__ float s[128];
  const Vec3* v = reinterpret_cast<const Vec3*>(in);
  Vec3 sum{0.f, 0.f, 0.f}; float top = Max<float>::id();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n / 3; i += gridDim.x * blockDim.x) { Vec3 a = v[i]; sum = sum + a; top = Max<float>{}(top, a.x); }
  float x = fold<float, Add<float>, 128>(sum.x, s, {}), y = fold<float, Add<float>, 128>(sum.y, s, {}), z = fold<float, Add<float>, 128>(sum.z, s, {});
  top = fold<float, Max<float>, 128>(top, s, {});
  if (threadIdx.x == 0) { atomicAdd(out, x); atomicAdd(out + 1, y); atomicAdd(out + 2, z); out[3 + blockIdx.x] = top; }
}
K segmented_scan(const int* in, int* out, int n) { // sums restart where the value is a multiple of four; a warp at a time
  int t = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31;
  bool live = t < n;
  int v = live ? in[t] : 0;
  u32 heads = __ballot_sync(0xffffffffu, (v & 3) == 0) | 1u;
  int head = 31 - __clz(heads & (0xffffffffu >> (31 - lane)));
  #pragma unroll
  for (int d = 1; d < 32; d <<= 1) { int o = __shfl_up_sync(0xffffffffu, v, d); if (lane - d >= head) v += o; }
  if (!live) return;
  out[t] = v;
}
K sort_pairs(const u64* in, u64* out, int n) { // bitonic, padded; leaves early after the last barrier
  __shared__ u64 s[128];
  int t = threadIdx.x;
  for (int i = t; i < 128; i += blockDim.x) s[i] = i < n ? in[i] : ~0ull;
  __syncthreads();
  for (int k = 2; k <= 128; k *= 2)
    for (int j = k / 2; j; j /= 2) {
      int a = 2 * t - (t & (j - 1)), b = a + j;
      u64 x = s[a], y = s[b];
      if ((x > y) == !(a & k)) { s[a] = y; s[b] = x; }
      __syncthreads();
    }
  if (t >= n) return;
  out[t] = s[t];
  if (t + 64 >= n) return;
  out[t + 64] = s[t + 64];
}
K compact_grid(const int* in, int* out, int n) { // out[0]: counter; one atomic a warp, any order
  int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31;
  bool keep = i < n && in[i] > 0;
  u32 mask = __ballot_sync(~0u, keep); int base = 0;
  if (lane == 0 && mask) base = atomicAdd(out, __popc(mask));
  base = __shfl_sync(~0u, base, 0);
  if (keep) out[1 + base + __popc(mask & ~(~0u << lane))] = in[i];
}
__device__ double newton_root(double a, int k) { // k-th root
  double x = a > 1. ? a : 1.;
  for (int it = 0; it < 200; it++) {
    double p = 1.; for (int j = 1; j < k; j++) p *= x;
    double next = ((k - 1) * x + a / p) / k;
    if (fabs(next - x) <= 1e-15 * x) return next;
    x = next;
  }
  return x;
}
K newton(const double* in, double* out, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = newton_root(fabs(in[i]) + .5, 2 + i % 4) + __drcp_rn(in[i] + 9.) + __dsqrt_rd(2.) - __fma_rn(in[i], in[i], 1.);
}
__device__ __forceinline__ u64 mum(u64 a, u64 b) { return __umul64hi(a, b) ^ (a * b); }
K hash_mix(const u64* in, u64* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  u64 h = 0x9e3779b97f4a7c15ull ^ (u64)i;
  for (int r = 0; r < 4; r++) { h = mum(h ^ in[(i + r) % n], 0xa0761d6478bd642full); h = h << 23 | h >> 41; }
  out[i] = h ^ (u64)__mul64hi((long long)h, -3ll) ^ (u64)__umulhi((u32)h, 0xdeadbeefu) ^ __brevll(h) ^ (u64)__clzll((long long)(h >> (i & 63))) ^ (u64)__ffsll((long long)h);
}
union Bits { float f; u32 u; struct { u32 m : 23, e : 8, s : 1; } p; uchar4 c; short2 h; };
K narrow_vectors(const char4* in, int* out, int n) { // chars, shorts, unions, local array with moving index
  int i = threadIdx.x, hist[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  char4 c = in[i]; short2 s = reinterpret_cast<const short2*>(in)[i]; uchar2 q = reinterpret_cast<const uchar2*>(in)[2 * i + 1];
  hist[c.x & 7] += c.x; hist[c.y & 7] += c.y; hist[c.z & 7] += c.z; hist[c.w & 7] += c.w;
  Bits b; b.f = (float)(s.x + s.y) * .5f + 3.f;
  b.p.s ^= 1; b.p.e += 2; b.c.x = (unsigned char)q.x; b.h.y ^= (short)1;
  out[2 * i] = hist[i & 7] * 1000 + hist[(i + 3) & 7] + __dp4a(*(const int*)&c, 0x01020304, (int)q.y);
  out[2 * i + 1] = (int)b.u;
}
struct Cell { int sum; short count; float best; };
K grid_cells(const int* in, float* out, int n) { // 4 x 8 cells of structs, several kinds of atomics; out: 32 cells of 3, then a double
  __shared__ Cell cell[4][8];
  __shared__ u32 top[4];
  int t = threadIdx.x;
  if (t < 32) { Cell& c = cell[t / 8][t % 8]; c.sum = 0; c.count = 0; c.best = -1.f; }
  if (t < 4) top[t] = 0;
  __syncthreads();
  for (int i = t; i < n; i += blockDim.x) {
    u32 v = (u32)in[i]; Cell& c = cell[v >> 3 & 3][v & 7];
    atomicAdd(&c.sum, (int)(v >> 5 & 255));
    float f = (float)(v >> 8 & 0xffff);
    int* p = reinterpret_cast<int*>(&c.best); int old = *(volatile int*)p, seen; // a maximum by compare and swap
    while (__int_as_float(old) < f) { seen = old; old = atomicCAS(p, seen, __float_as_int(f)); if (old == seen) break; }
    atomicMax(&top[v & 3], v >> 4);
  }
  __syncthreads();
  if (t < 32) { Cell c = cell[t / 8][t % 8]; out[3 * t] = (float)c.sum; out[3 * t + 1] = c.best; out[3 * t + 2] = (float)top[t & 3]; atomicAdd(reinterpret_cast<double*>(out + 96), (double)c.sum * .25); }
}
K inline_asm(const u32* in, u32* out, int n) {
  u32 a = in[threadIdx.x], b = in[(threadIdx.x + 1) % n], r, s, lo, hi; u64 w;
  asm("{\n .reg .b32 t, u;\n bfe.u32 t, %1, 5, 11;\n bfi.b32 u, t, %2, 20, 7;\n mov.b32 %0, u;\n}" : "=r"(r) : "r"(a), "r"(b));
  asm("prmt.b32 %0, %1, %2, 0x4170;" : "=r"(s) : "r"(a), "r"(b));
  asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(r) : "r"(a), "r"(r), "r"(s));
  asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(w) : "r"(a), "r"(b), "l"((u64)s << 7));
  asm("mov.b64 {%0, %1}, %2;" : "=r"(lo), "=r"(hi) : "l"(w));
  asm("shf.l.wrap.b32 %0, %1, %2, %3;" : "=r"(s) : "r"(lo), "r"(hi), "r"(a));
  asm volatile("{\n .reg .pred p;\n setp.lt.s32 p, %1, %2;\n @p add.u32 %0, %0, 7;\n @!p sub.u32 %0, %0, 9;\n}" : "+r"(r) : "r"(a), "r"(b));
  out[threadIdx.x] = r ^ s ^ hi;
}
__device__ __noinline__ u32 ackermann(u32 m, u32 n) { return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1)); }
__device__ __noinline__ int even(int n); // mutual recursion
__device__ __noinline__ int odd(int n) { return n == 0 ? 0 : even(n - 1); }
__device__ __noinline__ int even(int n) { return n == 0 ? 1 : odd(n - 1); }
K deep_calls(const int* in, int* out, int n) {
  int i = threadIdx.x;
  if (i % 3 == 0) out[i] = (int)ackermann(2, (u32)in[i] & 3); else out[i] = even(in[i] & 31) * 10 + odd(i);
}
K private_histogram(const unsigned char* in, int* out, int n) { // sub-histograms of each warp, joined
  __shared__ int h[4][256];
  int w = threadIdx.x / 32;
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) (&h[0][0])[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    u32 v = in[i], peers = __match_any_sync(__activemask(), v);
    if ((peers & ((1u << (threadIdx.x & 31)) - 1)) == 0) atomicAdd(&h[w][v], __popc(peers));
  }
  __syncthreads();
  for (int b = threadIdx.x; b < 256; b += blockDim.x) { int s = h[0][b] + h[1][b] + h[2][b] + h[3][b]; if (s) atomicAdd(out + b, s); }
}
