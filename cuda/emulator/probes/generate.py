#!/usr/bin/env python3
"""Writes the probe kernels (*.cu) and their list (probes.txt) beside itself. Run it after changing a probe."""
import os
os.chdir(os.path.dirname(os.path.abspath(__file__)))
man = []


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


# ---- mma.sync: one warp; registers of A, B and C as words by lane, registers of D out.
shapes = [("m16n8k16", "bf16", 4, 2), ("m16n8k8", "bf16", 2, 1), ("m16n8k16", "f16", 4, 2), ("m16n8k8", "f16", 2, 1),
          ("m16n8k8", "tf32", 4, 2), ("m16n8k4", "tf32", 2, 1), ("m16n8k32", "e4m3", 4, 2), ("m16n8k32", "e5m2", 4, 2),
          ("m16n8k32", "s8", 4, 2), ("m16n8k16", "s8", 2, 1)]
o = '// One warp: registers of A, B and C as words by lane, one mma.sync, registers of D out.\n#include "device.h"\n'
for sh, ty, na, nb in shapes:
    acc = "s32" if ty == "s8" else "f32"
    name = f"mma_{sh}_{ty}"
    regs = lambda first, n: ",".join(f"%{first + i}" for i in range(n))
    o += f'''extern "C" __global__ void {name}(const u32* in, u32* out) {{
  const u32 l = threadIdx.x; {"u32" if ty == "s8" else "float"} d[4];
  for (int i = 0; i < 4; i++) d[i] = {"" if ty == "s8" else "bits_f32"}(in[(i + {na + nb}) * 32 + l]);
  asm volatile("mma.sync.aligned.{sh}.row.col.{acc}.{ty}.{ty}.{acc} {{{regs(0, 4)}}}, {{{regs(4, na)}}}, {{{regs(4 + na, nb)}}}, {{{regs(0, 4)}}};"
    : {", ".join(f'"+{"r" if ty == "s8" else "f"}"(d[{i}])' for i in range(4))} : {", ".join(f'"r"(in[{i * 32} + l])' for i in range(na + nb))});
  for (int i = 0; i < 4; i++) out[i * 32 + l] = {"" if ty == "s8" else "f32_bits"}(d[i]);
}}
'''
    man.append(f"{name} mma.cu 1 32 0 {'bits' if ty == 's8' else ty}:{(na + nb) * 32},{'bits' if ty == 's8' else 'f32i'}:128 512 bits")
o += '''extern "C" __global__ void mma_m16n8k16_f16_f16(const u32* in, u32* out) {
  const u32 l = threadIdx.x; u32 d[2] = {in[192 + l], in[224 + l]};
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
    : "+r"(d[0]), "+r"(d[1]) : "r"(in[l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]), "r"(in[128 + l]), "r"(in[160 + l]));
  out[l] = d[0]; out[32 + l] = d[1];
}
'''
man.append("mma_m16n8k16_f16_f16 mma.cu 1 32 0 f16:256 256 bits")
man.append("mma_m16n8k8_tf32 mma.cu 1 32 0 f32r:192,f32i:128 512 close name=mma_tf32_low_bits")
write("mma.cu", o)

# ---- ldmatrix, stmatrix, movmatrix
o = '// ldmatrix, stmatrix and movmatrix: raw words of shared memory and of registers.\n#include "device.h"\n'
for n in (1, 2, 4):
    for t in ("", "trans"):
        tt = ".trans" if t else ""
        outs = ", ".join(f'"=r"(r[{i}])' for i in range(n))
        ins = ", ".join(f'"r"(r[{i}])' for i in range(n))
        o += f'''extern "C" __global__ void ldmatrix_x{n}{t}(const u32* in, u32* out) {{
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[{n}];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x{n}{tt}.shared.b16 {{{",".join(f"%{i}" for i in range(n))}}}, [%{n}];" : {outs} : "r"(a) : "memory");
  for (int i = 0; i < {n}; i++) out[i * 32 + l] = r[i];
}}
extern "C" __global__ void stmatrix_x{n}{t}(const u32* in, u32* out) {{
  __shared__ __align__(128) u32 s[256];
  const u32 l = threadIdx.x; u32 r[{n}];
  for (int i = 0; i < 8; i++) s[i * 32 + l] = 0;
  for (int i = 0; i < {n}; i++) r[i] = in[i * 32 + l];
  __syncthreads();
  u32 a = smem_u32(s) + (l * 7 % 32) * 16;
  asm volatile("stmatrix.sync.aligned.m8n8.x{n}{tt}.shared.b16 [%0], {{{",".join(f"%{i + 1}" for i in range(n))}}};" :: "r"(a), {ins} : "memory");
  __syncthreads();
  for (int i = 0; i < 8; i++) out[i * 32 + l] = s[i * 32 + l];
}}
'''
        man.append(f"ldmatrix_x{n}{t} matrix.cu 1 32 0 bits:256 {n * 128} bits")
        man.append(f"stmatrix_x{n}{t} matrix.cu 1 32 0 bits:{n * 32} 1024 bits")
o += '''extern "C" __global__ void movmatrix(const u32* in, u32* out) {
  u32 d; asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(in[threadIdx.x])); out[threadIdx.x] = d;
}
'''
man.append("movmatrix matrix.cu 1 32 0 bits:32 128 bits")
write("matrix.cu", o)

# ---- TMA
o = '''// Tensor copies: the box as it lies in shared memory (before: all ones), and stores of a box back to device memory.
#include "device.h"
'''
for r in range(1, 6):
    o += f'''extern "C" __global__ void tma_load_{r}d(const u32* in, u32* out, const GRID_CONSTANT TensorMap map, u32 bytes, {", ".join(f"int c{i}" for i in range(5))}) {{
  extern __shared__ __align__(1024) u8 s[];
  __shared__ __align__(8) u64 bar;
  const u32 t = threadIdx.x;
  for (u32 i = t; i < bytes / 4; i += 32) reinterpret_cast<u32*>(s)[i] = 0xffffffffu;
  if (t == 0) {{ mbar_init(smem_u32(&bar), 1); mbar_fence_init(); }}
  fence_async();
  __syncthreads();
  if (t == 0) {{
    mbar_expect(smem_u32(&bar), bytes);
    asm volatile("cp.async.bulk.tensor.{r}d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {{{", ".join(f"%{i + 3}" for i in range(r))}}}], [%2];"
      :: "r"(smem_u32(s)), "l"(&map), "r"(smem_u32(&bar)), {", ".join(f'"r"(c{i})' for i in range(r))} : "memory");
  }}
  mbar_wait(smem_u32(&bar), 0);
  for (u32 i = t; i < bytes / 4; i += 32) out[i] = reinterpret_cast<u32*>(s)[i];
}}
'''
o += '''extern "C" __global__ void tma_store_2d(const u32* in, u32* out, const GRID_CONSTANT TensorMap map, u32 bytes, int c0, int c1, int, int, int) {
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x;
  for (u32 i = t; i < bytes / 4; i += 32) reinterpret_cast<u32*>(s)[i] = in[i];
  fence_async();
  __syncthreads();
  if (t == 0)
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];\\ncp.async.bulk.commit_group;\\ncp.async.bulk.wait_group 0;"
      :: "l"(&map), "r"(smem_u32(s)), "r"(c0), "r"(c1) : "memory");
}
extern "C" __global__ void bulk_copy(const u32* in, u32* out) {
  __shared__ __align__(128) u32 s[64]; __shared__ __align__(8) u64 bar;
  const u32 t = threadIdx.x;
  if (t == 0) { mbar_init(smem_u32(&bar), 1); mbar_fence_init(); }
  __syncthreads();
  if (t == 0) {
    mbar_expect(smem_u32(&bar), 256);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];" :: "r"(smem_u32(s)), "l"(in), "r"(smem_u32(&bar)) : "memory");
  }
  mbar_wait(smem_u32(&bar), 0);
  s[t] += 1; fence_async(); __syncthreads();
  if (t == 0) asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 256;\\ncp.async.bulk.commit_group;\\ncp.async.bulk.wait_group 0;" :: "l"(out), "r"(smem_u32(s)) : "memory");
}
'''
write("tma.cu", o)
SIZE = {"u8": 1, "f16": 2, "bf16": 2, "f32": 4}
x = lambda v: "x".join(map(str, v))


def tma(name, el, dims, box, step, sw, nan, coords, size):
    words = SIZE[el]
    for d in dims:
        words *= d
    man.append(f"tma_load_{len(dims)}d tma.cu 1 32 {size} bits:{words // 4} {size} bits name={name} map={el}:{x(dims)}:{x(box)}:{x(step)}:{sw}:{nan}:{x(coords)}")


tma("tma_1d", "f32", [64], [32], [1], 0, 0, [16], 128)
tma("tma_1d_over", "f32", [64], [32], [1], 0, 0, [48], 128)
tma("tma_1d_before", "f32", [64], [32], [1], 0, 0, [-8], 128)
for sw, inner in ((0, 64), (1, 16), (2, 32), (3, 64)):
    tma(f"tma_2d_sw{sw}", "bf16", [96, 40], [inner, 16], [1, 1], sw, 0, [8, 3], inner * 32)
    tma(f"tma_2d_sw{sw}_over", "bf16", [96, 40], [inner, 16], [1, 1], sw, 0, [88, 31], inner * 32)
    tma(f"tma_2d_sw{sw}_before", "bf16", [96, 40], [inner, 16], [1, 1], sw, 0, [-8, -5], inner * 32)
tma("tma_2d_sw3_narrow", "bf16", [96, 40], [32, 16], [1, 1], 3, 0, [8, 3], 1024)
tma("tma_2d_sw2_narrow", "bf16", [96, 40], [16, 16], [1, 1], 2, 0, [8, 3], 512)
tma("tma_2d_f32_sw3", "f32", [64, 24], [32, 8], [1, 1], 3, 0, [16, 20], 1024)
tma("tma_2d_u8_sw3", "u8", [256, 24], [128, 8], [1, 1], 3, 0, [192, 1], 1024)
for el, n in (("f32", 512), ("bf16", 256), ("f16", 256)):
    tma(f"tma_2d_nan_{el}", el, [64, 24], [16, 8], [1, 1], 0, 1, [56, 20], n)
tma("tma_2d_step", "f32", [64, 24], [16, 8], [1, 2], 0, 0, [4, 5], 256)
tma("tma_3d", "bf16", [64, 8, 6], [32, 4, 3], [1, 1, 1], 2, 0, [40, 6, 4], 768)
tma("tma_4d", "f32", [16, 5, 4, 3], [8, 3, 2, 2], [1] * 4, 0, 0, [12, 3, -1, 2], 384)
tma("tma_5d", "f32", [16, 3, 3, 3, 2], [8, 2, 2, 2, 2], [1] * 5, 1, 0, [4, 2, -1, 1, 1], 512)
for sw in (0, 3):
    man.append(f"tma_store_2d tma.cu 1 32 2048 bits:512 7680 bits name=tma_store_sw{sw} map=bf16:96x40:64x16:1x1:{sw}:0:56x30 store")
man.append("bulk_copy tma.cu 1 64 0 bits:64 256 bits")

# ---- wgmma
o = '''// One warpgroup: raw words into shared memory, one wgmma with descriptors built from the arguments, accumulators out.
#include "device.h"
DEV u64 descriptor(u32 addr, u32 lbo, u32 sbo, u32 mode) { return (u64)((addr & 0x3ffff) >> 4) | (u64)(lbo >> 4 & 0x3fff) << 16 | (u64)(sbo >> 4 & 0x3fff) << 32 | (u64)mode << 62; }
'''


def wg(name, shape, acc, ty, n, major="", areg=False):
    global o
    half = acc == "f16"
    nr = n // 4 if half else n // 2
    c = "r" if half else "f"
    a = "{" + ",".join(f"%{nr + i}" for i in range(4)) + "}" if areg else f"%{nr}"
    ins = ", ".join(f'"r"(in[{i * 128} + t])' for i in range(4)) if areg else '"l"(da)'
    o += f'''extern "C" __global__ void {name}(const u32* in, u32* out, u32 words, u32 b_at, u32 la, u32 sa, u32 lb, u32 sb, u32 mode) {{
  extern __shared__ __align__(1024) u8 s[];
  const u32 t = threadIdx.x; {"u32" if half else "float"} d[{nr}];
  for (u32 i = t; i < words; i += 128) reinterpret_cast<u32*>(s)[i] = in[i];
  #pragma unroll
  for (int i = 0; i < {nr}; i++) d[i] = 0;
  fence_async();
  __syncthreads();
  u64 da = descriptor(smem_u32(s), la, sa, mode), db = descriptor(smem_u32(s) + b_at, lb, sb, mode);
  wgmma_fence();
  asm volatile("{{\\n.reg .pred p;\\nsetp.eq.b32 p, 1, 1;\\nwgmma.mma_async.sync.aligned.{shape}.{acc}.{ty}.{ty} {{{",".join(f"%{i}" for i in range(nr))}}}, {a}, %{nr + (4 if areg else 1)}, p, 1, 1{major};\\n}}"
    : {", ".join(f'"+{c}"(d[{i}])' for i in range(nr))} : {ins}, "l"(db) : "memory");
  wgmma_commit(); wgmma_wait<0>();
  #pragma unroll
  for (int i = 0; i < {nr}; i++) out[i * 128 + t] = {"d[i]" if half else "f32_bits(d[i])"};
}}
'''


def run(kernel, name, kind, words, b_at, la, sa, lb, sb, mode, nr):
    man.append(f"{kernel} wgmma.cu 1 128 {words * 4} {kind}:{words} {nr * 512} bits name={name} args={words},{b_at},{la},{sa},{lb},{sb},{mode}")


for a in (0, 1):
    for b in (0, 1):
        wg(f"wg_bf16_n64_{a}{b}", "m64n64k16", "f32", "bf16", 64, f", {a}, {b}")
wg("wg_bf16_n128_01", "m64n128k16", "f32", "bf16", 128, ", 0, 1")
wg("wg_f16_n64", "m64n64k16", "f32", "f16", 64, ", 0, 0")
wg("wg_f16_n64_h", "m64n64k16", "f16", "f16", 64, ", 0, 0")
wg("wg_bf16_n64_reg", "m64n64k16", "f32", "bf16", 64, ", 0", True)
wg("wg_e4m3_n64", "m64n64k32", "f32", "e4m3", 64)
wg("wg_e4m3_n64_reg", "m64n64k32", "f32", "e4m3", 64, "", True)
wg("wg_e5m2_n64", "m64n64k32", "f32", "e5m2", 64)
wg("wg_tf32_n64", "m64n64k8", "f32", "tf32", 64)
wg("wg_bf16_n8", "m64n8k16", "f32", "bf16", 8, ", 0, 0")
wg("wg_bf16_n256", "m64n256k16", "f32", "bf16", 256, ", 0, 0")
write("wgmma.cu", o)
K = "wg_bf16_n64_00"
run(K, "wgmma_k_none", "bf16", 2048, 4096, 1024, 128, 1024, 128, 0, 32)
run(K, "wgmma_k_none_swapped", "bf16", 2048, 4096, 128, 256, 128, 256, 0, 32)
run(K, "wgmma_k_sw32", "bf16", 2048, 4096, 16, 256, 16, 256, 3, 32)
run(K, "wgmma_k_sw64", "bf16", 4096, 8192, 16, 512, 16, 512, 2, 32)
run(K, "wgmma_k_sw128", "bf16", 8192, 16384, 16, 1024, 16, 1024, 1, 32)
# Every layout reads the same random numbers: offsets only have to stay inside.
for kern, lab in (("wg_bf16_n64_10", "a_mn"), ("wg_bf16_n64_01", "b_mn"), ("wg_bf16_n64_11", "ab_mn")):
    run(kern, f"wgmma_{lab}_none", "bf16", 8192, 16384, 1024, 128, 1024, 128, 0, 32)
    run(kern, f"wgmma_{lab}_sw32", "bf16", 8192, 16384, 1024, 512, 1024, 512, 3, 32)
    run(kern, f"wgmma_{lab}_sw64", "bf16", 8192, 16384, 1024, 2048, 1024, 2048, 2, 32)
    run(kern, f"wgmma_{lab}_sw128", "bf16", 8192, 16384, 4096, 1024, 4096, 1024, 1, 32)
run("wg_bf16_n128_01", "wgmma_n128_b_mn_sw128", "bf16", 8192, 16384, 16, 1024, 2048, 1024, 1, 64)
S = (8192, 16384, 16, 1024, 16, 1024, 1)
run("wg_f16_n64", "wgmma_f16", "f16", *S, 32)
run("wg_f16_n64_h", "wgmma_f16_f16", "f16", *S, 16)
run("wg_bf16_n64_reg", "wgmma_a_registers", "bf16", *S, 32)
run("wg_e4m3_n64", "wgmma_e4m3", "e4m3", *S, 32)
run("wg_e4m3_n64_reg", "wgmma_e4m3_registers", "e4m3", *S, 32)
run("wg_e5m2_n64", "wgmma_e5m2", "e5m2", *S, 32)
run("wg_tf32_n64", "wgmma_tf32", "f32i", *S, 32)
run("wg_bf16_n8", "wgmma_n8", "bf16", *S, 4)
run("wg_bf16_n256", "wgmma_n256", "bf16", 16384, 16384, 16, 1024, 16, 1024, 1, 128)

# ---- scalar instructions
exact, approx, f64 = [], [], []
ROUND = ("rn", "rz", "rm", "rp")
f1 = lambda i: exact.append(f'asm("{i} %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f);')
f2 = lambda i: exact.append(f'asm("{i} %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f);')
f3 = lambda i: exact.append(f'asm("{i} %0, %1, %2, %3;" : "=f"(f) : "f"(x), "f"(y), "f"(z)); r = f32_bits(f);')
i1 = lambda i: exact.append(f'asm("{i} %0, %1;" : "=r"(r) : "r"(a));')
i2 = lambda i: exact.append(f'asm("{i} %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));')
i3 = lambda i: exact.append(f'asm("{i} %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));')
for m in ROUND:
    for k in ("add", "sub", "mul", "div"):
        f2(f"{k}.{m}.f32")
    f3(f"fma.{m}.f32")
    f1(f"sqrt.{m}.f32")
    f1(f"rcp.{m}.f32")
for k in ("add.ftz.f32", "mul.ftz.f32", "add.sat.f32", "mul.ftz.sat.f32", "min.f32", "max.f32", "min.NaN.f32", "max.NaN.f32", "min.ftz.f32", "copysign.f32"):
    f2(k)
for k in ("fma.rn.ftz.f32", "fma.rn.sat.f32"):
    f3(k)
for k in ("abs.f32", "neg.f32", "abs.ftz.f32", "cvt.rni.f32.f32", "cvt.rzi.f32.f32", "cvt.rmi.f32.f32", "cvt.rpi.f32.f32", "cvt.sat.f32.f32"):
    f1(k)
for t in ("s32", "u32"):
    for m in ("rni", "rzi", "rmi", "rpi"):
        exact.append(f'asm("cvt.{m}.{t}.f32 %0, %1;" : "=r"(r) : "f"(x));')
    for m in ROUND:
        exact.append(f'asm("cvt.{m}.f32.{t} %0, %1;" : "=f"(f) : "r"(a)); r = f32_bits(f);')
for t in ("s16", "u16", "s8", "u8"):
    exact.append(f'asm("cvt.rzi.{t}.f32 %0, %1;" : "=r"(r) : "f"(x));')
for p in ("cvt.rn.f16x2.f32", "cvt.rz.f16x2.f32", "cvt.rn.bf16x2.f32", "cvt.rz.bf16x2.f32", "cvt.rn.relu.f16x2.f32", "cvt.rn.relu.bf16x2.f32"):
    exact.append(f'asm("{p} %0, %1, %2;" : "=r"(r) : "f"(x), "f"(y));')
for p in ("cvt.rn.satfinite.e4m3x2.f32", "cvt.rn.satfinite.e5m2x2.f32", "cvt.rn.satfinite.relu.e4m3x2.f32"):
    exact.append(f'u16 h; asm("{p} %0, %1, %2;" : "=h"(h) : "f"(x), "f"(y)); r = h;')
exact.append('asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));')
for p in ("cvt.rn.f16x2.e4m3x2", "cvt.rn.f16x2.e5m2x2"):
    exact.append(f'asm("{p} %0, %1;" : "=r"(r) : "h"((u16)a));')
exact.append('u16 h; asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(h) : "r"(a)); r = h;')
for m in ("rn", "rp"):
    exact.append(f'u16 h; asm("cvt.{m}.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); r = h;')
exact.append('asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((u16)a)); r = f32_bits(f);')
for k in ("add.f16x2", "mul.f16x2", "min.f16x2", "max.NaN.f16x2", "add.bf16x2", "mul.bf16x2", "min.bf16x2", "max.bf16x2", "shl.b32", "shr.u32", "shr.s32",
          "mul.hi.s32", "mul.hi.u32", "div.s32", "div.u32", "rem.s32", "rem.u32", "min.s32", "max.u32", "add.sat.s32", "sub.sat.s32", "mul24.lo.s32",
          "mul24.hi.u32", "bmsk.clamp.b32", "bmsk.wrap.b32", "szext.clamp.s32", "szext.wrap.u32"):
    i2(k)
for k in ("fma.rn.f16x2", "fma.rn.bf16x2", "fma.rn.relu.f16x2", "shf.l.clamp.b32", "shf.l.wrap.b32", "shf.r.clamp.b32", "shf.r.wrap.b32", "prmt.b32",
          "prmt.b32.f4e", "prmt.b32.b4e", "prmt.b32.rc8", "prmt.b32.ecl", "prmt.b32.ecr", "prmt.b32.rc16", "bfe.u32", "bfe.s32", "dp4a.s32.s32",
          "dp4a.u32.s32", "dp2a.lo.s32.u32", "dp2a.hi.s32.s32", "sad.s32", "sad.u32", "fns.b32", "mad.hi.s32", "mad.hi.sat.s32"):
    i3(k)
for k in ("popc.b32", "clz.b32", "brev.b32", "bfind.u32", "bfind.s32", "bfind.shiftamt.u32", "bfind.shiftamt.s32", "cnot.b32", "abs.s32"):
    i1(k)
exact.append('asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(c & 63), "r"(c >> 8 & 63));')
for t in ("0xca", "0x96", "0x01"):
    exact.append(f'asm("lop3.b32 %0, %1, %2, %3, {t};" : "=r"(r) : "r"(a), "r"(b), "r"(c));')
exact.append('asm("slct.s32.f32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "f"(z));')
for m in ("idx", "up", "down", "bfly"):
    exact.append(f'asm volatile("{{.reg .pred q; .reg .b32 t; shfl.sync.{m}.b32 t|q, %1, %2, %3, 0xffffffff; selp.b32 %0, t, 0x5a5a5a5a, q;}}" : "=r"(r) : "r"(a), "r"(b), "r"(c & 0x1f1f));')
exact.append('asm volatile("redux.sync.add.s32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(a));')
exact.append('asm volatile("redux.sync.min.s32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(a));')
exact.append('asm volatile("match.any.sync.b32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(a & 3));')
for k in ("eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"):
    exact.append(f'asm("{{.reg .pred q; setp.{k}.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}}" : "=r"(r) : "f"(x), "f"(y));')
for k in ("finite", "infinite", "number", "notanumber", "normal", "subnormal"):
    exact.append(f'asm("{{.reg .pred q; testp.{k}.f32 q, %1; selp.u32 %0, 1, 0, q;}}" : "=r"(r) : "f"(x));')
for k in ("ex2.approx.f32", "ex2.approx.ftz.f32", "lg2.approx.f32", "rcp.approx.f32", "rcp.approx.ftz.f32", "sqrt.approx.f32", "rsqrt.approx.f32",
          "sin.approx.f32", "cos.approx.f32", "tanh.approx.f32"):
    approx.append(f'asm("{k} %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f);')
for k in ("div.approx.f32", "div.full.f32"):
    approx.append(f'asm("{k} %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f);')
L = "__double_as_longlong"
for m in ROUND:
    for k in ("add", "mul", "div"):
        f64.append(f'asm("{k}.{m}.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y));')
    f64.append(f'asm("fma.{m}.f64 %0, %1, %2, %3;" : "=d"(r) : "d"(x), "d"(y), "d"(z));')
    f64.append(f'asm("sqrt.{m}.f64 %0, %1;" : "=d"(r) : "d"(x));')
    f64.append(f'float f; asm("cvt.{m}.f32.f64 %0, %1;" : "=f"(f) : "d"(x)); r = __longlong_as_double((long long)f32_bits(f));')
for k in ("min", "max"):
    f64.append(f'asm("{k}.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y));')
for k in ("cvt.rni.f64.f64", "cvt.rzi.f64.f64", "cvt.rmi.f64.f64"):
    f64.append(f'asm("{k} %0, %1;" : "=d"(r) : "d"(x));')
for k in ("cvt.rzi.s64.f64", "cvt.rni.u64.f64"):
    f64.append(f'long long q; asm("{k} %0, %1;" : "=l"(q) : "d"(x)); r = __longlong_as_double(q);')
for k in ("cvt.rzi.s32.f64", "cvt.rni.u32.f64"):
    f64.append(f'u32 q; asm("{k} %0, %1;" : "=r"(q) : "d"(x)); r = __longlong_as_double((long long)q);')
for k in ("cvt.rn.f64.s64", "cvt.rz.f64.u64"):
    f64.append(f'asm("{k} %0, %1;" : "=d"(r) : "l"({L}(x)));')
for k in ("cvt.rn.f32.u64", "cvt.rz.f32.s64", "cvt.rp.f32.s64"):
    f64.append(f'float f; asm("{k} %0, %1;" : "=f"(f) : "l"({L}(x))); r = __longlong_as_double((long long)f32_bits(f));')
f64.append(f'long long q; asm("mul.hi.s64 %0, %1, %2;" : "=l"(q) : "l"({L}(x)), "l"({L}(y))); r = __longlong_as_double(q);')
f64.append(f'long long q; asm("shr.s64 %0, %1, %2;" : "=l"(q) : "l"({L}(x)), "r"((u32){L}(y))); r = __longlong_as_double(q);')


def kernel(name, ops, double):
    s = f'extern "C" __global__ void {name}(const u32* in, u32* out) {{\n  const u32 t = threadIdx.x;\n'
    if double:
        s += "  const double* v = reinterpret_cast<const double*>(in); double* o = reinterpret_cast<double*>(out); double x = v[t], y = v[256 + t], z = v[512 + t];\n"
    else:
        s += "  u32 a = in[t], b = in[256 + t], c = in[512 + t]; float x = bits_f32(a), y = bits_f32(b), z = bits_f32(c);\n"
    for i, body in enumerate(ops):
        s += f"  {{ double r = 0; {body} o[{i * 256} + t] = r; }}\n" if double else f"  {{ u32 r = 0; float f = 0; (void)f; {body} out[{i * 256} + t] = r; }}\n"
    return s + "  (void)z;\n}\n"


write("scalar.cu", '// Scalar instructions on edge values and random bits; every operation writes its own 256 words.\n#include "device.h"\n'
      + kernel("scalar_exact", exact, False) + kernel("scalar_approx", approx, False) + kernel("scalar_f64", f64, True))
man.append(f"scalar_exact scalar.cu 1 256 0 edge:768 {len(exact) * 1024} bits")
man.append(f"scalar_approx scalar.cu 1 256 0 edge:768 {len(approx) * 1024} report")
man.append(f"scalar_f64 scalar.cu 1 256 0 edge64:1536 {len(f64) * 2048} bits64")
write("probes.txt", """# One probe per line: kernel file grid block dynamic-shared inputs output-bytes comparison [name=..] [map=..] [args=..] [store]
# inputs: kind:words[,kind:words]; run.py and tests/probes.rs make them alike.
# map: element:dims:box:element-strides:swizzle:nan-fill:coordinates
""" + "\n".join(man) + "\n")
print(len(man), "probes,", sum(int(m.split()[6]) for m in man), "bytes of output")
