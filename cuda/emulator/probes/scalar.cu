// Scalar instructions on edge values and random bits; every operation writes its own 256 words.
#include "device.h"
extern "C" __global__ void scalar_exact(const u32* in, u32* out) {
  const u32 t = threadIdx.x;
  u32 a = in[t], b = in[256 + t], c = in[512 + t]; float x = bits_f32(a), y = bits_f32(b), z = bits_f32(c);
  { u32 r = 0; float f = 0; (void)f; asm("add.rn.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[0 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sub.rn.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[256 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.rn.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[512 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("div.rn.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[768 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(f) : "f"(x), "f"(y), "f"(z)); r = f32_bits(f); out[1024 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sqrt.rn.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[1280 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("rcp.rn.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[1536 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("add.rz.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[1792 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sub.rz.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[2048 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.rz.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[2304 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("div.rz.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[2560 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fma.rz.f32 %0, %1, %2, %3;" : "=f"(f) : "f"(x), "f"(y), "f"(z)); r = f32_bits(f); out[2816 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sqrt.rz.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[3072 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("rcp.rz.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[3328 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("add.rm.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[3584 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sub.rm.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[3840 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.rm.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[4096 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("div.rm.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[4352 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fma.rm.f32 %0, %1, %2, %3;" : "=f"(f) : "f"(x), "f"(y), "f"(z)); r = f32_bits(f); out[4608 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sqrt.rm.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[4864 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("rcp.rm.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[5120 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("add.rp.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[5376 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sub.rp.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[5632 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.rp.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[5888 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("div.rp.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[6144 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fma.rp.f32 %0, %1, %2, %3;" : "=f"(f) : "f"(x), "f"(y), "f"(z)); r = f32_bits(f); out[6400 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sqrt.rp.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[6656 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("rcp.rp.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[6912 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("add.ftz.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[7168 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.ftz.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[7424 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("add.sat.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[7680 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.ftz.sat.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[7936 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("min.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[8192 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("max.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[8448 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("min.NaN.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[8704 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("max.NaN.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[8960 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("min.ftz.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[9216 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("copysign.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[9472 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(f) : "f"(x), "f"(y), "f"(z)); r = f32_bits(f); out[9728 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(f) : "f"(x), "f"(y), "f"(z)); r = f32_bits(f); out[9984 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("abs.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[10240 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("neg.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[10496 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("abs.ftz.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[10752 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rni.f32.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[11008 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rzi.f32.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[11264 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rmi.f32.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[11520 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rpi.f32.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[11776 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.sat.f32.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[12032 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rni.s32.f32 %0, %1;" : "=r"(r) : "f"(x)); out[12288 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(r) : "f"(x)); out[12544 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rmi.s32.f32 %0, %1;" : "=r"(r) : "f"(x)); out[12800 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rpi.s32.f32 %0, %1;" : "=r"(r) : "f"(x)); out[13056 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rn.f32.s32 %0, %1;" : "=f"(f) : "r"(a)); r = f32_bits(f); out[13312 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rz.f32.s32 %0, %1;" : "=f"(f) : "r"(a)); r = f32_bits(f); out[13568 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rm.f32.s32 %0, %1;" : "=f"(f) : "r"(a)); r = f32_bits(f); out[13824 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rp.f32.s32 %0, %1;" : "=f"(f) : "r"(a)); r = f32_bits(f); out[14080 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rni.u32.f32 %0, %1;" : "=r"(r) : "f"(x)); out[14336 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rzi.u32.f32 %0, %1;" : "=r"(r) : "f"(x)); out[14592 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rmi.u32.f32 %0, %1;" : "=r"(r) : "f"(x)); out[14848 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rpi.u32.f32 %0, %1;" : "=r"(r) : "f"(x)); out[15104 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rn.f32.u32 %0, %1;" : "=f"(f) : "r"(a)); r = f32_bits(f); out[15360 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rz.f32.u32 %0, %1;" : "=f"(f) : "r"(a)); r = f32_bits(f); out[15616 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rm.f32.u32 %0, %1;" : "=f"(f) : "r"(a)); r = f32_bits(f); out[15872 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rp.f32.u32 %0, %1;" : "=f"(f) : "r"(a)); r = f32_bits(f); out[16128 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rzi.s16.f32 %0, %1;" : "=r"(r) : "f"(x)); out[16384 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rzi.u16.f32 %0, %1;" : "=r"(r) : "f"(x)); out[16640 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rzi.s8.f32 %0, %1;" : "=r"(r) : "f"(x)); out[16896 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rzi.u8.f32 %0, %1;" : "=r"(r) : "f"(x)); out[17152 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x), "f"(y)); out[17408 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x), "f"(y)); out[17664 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x), "f"(y)); out[17920 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rz.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x), "f"(y)); out[18176 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x), "f"(y)); out[18432 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(x), "f"(y)); out[18688 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; u16 h; asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(h) : "f"(x), "f"(y)); r = h; out[18944 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; u16 h; asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(h) : "f"(x), "f"(y)); r = h; out[19200 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; u16 h; asm("cvt.rn.satfinite.relu.e4m3x2.f32 %0, %1, %2;" : "=h"(h) : "f"(x), "f"(y)); r = h; out[19456 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x)); out[19712 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"((u16)a)); out[19968 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(r) : "h"((u16)a)); out[20224 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; u16 h; asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(h) : "r"(a)); r = h; out[20480 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); r = h; out[20736 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; u16 h; asm("cvt.rp.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); r = h; out[20992 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((u16)a)); r = f32_bits(f); out[21248 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("add.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[21504 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[21760 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("min.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[22016 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[22272 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("add.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[22528 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[22784 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("min.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[23040 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("max.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[23296 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("shl.b32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[23552 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("shr.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[23808 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("shr.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[24064 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.hi.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[24320 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul.hi.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[24576 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("div.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[24832 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("div.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[25088 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("rem.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[25344 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("rem.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[25600 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("min.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[25856 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("max.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[26112 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("add.sat.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[26368 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sub.sat.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[26624 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul24.lo.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[26880 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mul24.hi.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[27136 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("bmsk.clamp.b32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[27392 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("bmsk.wrap.b32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[27648 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("szext.clamp.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[27904 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("szext.wrap.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); out[28160 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[28416 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[28672 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fma.rn.relu.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[28928 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("shf.l.clamp.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[29184 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("shf.l.wrap.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[29440 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("shf.r.clamp.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[29696 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("shf.r.wrap.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[29952 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[30208 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("prmt.b32.f4e %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[30464 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("prmt.b32.b4e %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[30720 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("prmt.b32.rc8 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[30976 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("prmt.b32.ecl %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[31232 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("prmt.b32.ecr %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[31488 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("prmt.b32.rc16 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[31744 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("bfe.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[32000 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("bfe.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[32256 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[32512 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[32768 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("dp2a.lo.s32.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[33024 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("dp2a.hi.s32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[33280 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sad.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[33536 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sad.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[33792 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("fns.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[34048 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mad.hi.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[34304 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("mad.hi.sat.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[34560 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("popc.b32 %0, %1;" : "=r"(r) : "r"(a)); out[34816 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("clz.b32 %0, %1;" : "=r"(r) : "r"(a)); out[35072 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("brev.b32 %0, %1;" : "=r"(r) : "r"(a)); out[35328 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("bfind.u32 %0, %1;" : "=r"(r) : "r"(a)); out[35584 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("bfind.s32 %0, %1;" : "=r"(r) : "r"(a)); out[35840 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("bfind.shiftamt.u32 %0, %1;" : "=r"(r) : "r"(a)); out[36096 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("bfind.shiftamt.s32 %0, %1;" : "=r"(r) : "r"(a)); out[36352 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cnot.b32 %0, %1;" : "=r"(r) : "r"(a)); out[36608 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("abs.s32 %0, %1;" : "=r"(r) : "r"(a)); out[36864 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(c & 63), "r"(c >> 8 & 63)); out[37120 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[37376 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[37632 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("lop3.b32 %0, %1, %2, %3, 0x01;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); out[37888 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("slct.s32.f32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "f"(z)); out[38144 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm volatile("{.reg .pred q; .reg .b32 t; shfl.sync.idx.b32 t|q, %1, %2, %3, 0xffffffff; selp.b32 %0, t, 0x5a5a5a5a, q;}" : "=r"(r) : "r"(a), "r"(b), "r"(c & 0x1f1f)); out[38400 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm volatile("{.reg .pred q; .reg .b32 t; shfl.sync.up.b32 t|q, %1, %2, %3, 0xffffffff; selp.b32 %0, t, 0x5a5a5a5a, q;}" : "=r"(r) : "r"(a), "r"(b), "r"(c & 0x1f1f)); out[38656 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm volatile("{.reg .pred q; .reg .b32 t; shfl.sync.down.b32 t|q, %1, %2, %3, 0xffffffff; selp.b32 %0, t, 0x5a5a5a5a, q;}" : "=r"(r) : "r"(a), "r"(b), "r"(c & 0x1f1f)); out[38912 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm volatile("{.reg .pred q; .reg .b32 t; shfl.sync.bfly.b32 t|q, %1, %2, %3, 0xffffffff; selp.b32 %0, t, 0x5a5a5a5a, q;}" : "=r"(r) : "r"(a), "r"(b), "r"(c & 0x1f1f)); out[39168 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm volatile("redux.sync.add.s32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(a)); out[39424 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm volatile("redux.sync.min.s32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(a)); out[39680 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm volatile("match.any.sync.b32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(a & 3)); out[39936 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.eq.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[40192 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.ne.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[40448 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.lt.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[40704 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.le.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[40960 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.gt.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[41216 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.ge.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[41472 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.equ.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[41728 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.neu.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[41984 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.ltu.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[42240 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.leu.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[42496 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.gtu.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[42752 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.geu.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[43008 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.num.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[43264 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; setp.nan.f32 q, %1, %2; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x), "f"(y)); out[43520 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; testp.finite.f32 q, %1; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x)); out[43776 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; testp.infinite.f32 q, %1; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x)); out[44032 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; testp.number.f32 q, %1; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x)); out[44288 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; testp.notanumber.f32 q, %1; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x)); out[44544 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; testp.normal.f32 q, %1; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x)); out[44800 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("{.reg .pred q; testp.subnormal.f32 q, %1; selp.u32 %0, 1, 0, q;}" : "=r"(r) : "f"(x)); out[45056 + t] = r; }
  (void)z;
}
extern "C" __global__ void scalar_approx(const u32* in, u32* out) {
  const u32 t = threadIdx.x;
  u32 a = in[t], b = in[256 + t], c = in[512 + t]; float x = bits_f32(a), y = bits_f32(b), z = bits_f32(c);
  { u32 r = 0; float f = 0; (void)f; asm("ex2.approx.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[0 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[256 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("lg2.approx.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[512 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("rcp.approx.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[768 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[1024 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sqrt.approx.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[1280 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("rsqrt.approx.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[1536 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("sin.approx.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[1792 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("cos.approx.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[2048 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("tanh.approx.f32 %0, %1;" : "=f"(f) : "f"(x)); r = f32_bits(f); out[2304 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("div.approx.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[2560 + t] = r; }
  { u32 r = 0; float f = 0; (void)f; asm("div.full.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); r = f32_bits(f); out[2816 + t] = r; }
  (void)z;
}
extern "C" __global__ void scalar_f64(const u32* in, u32* out) {
  const u32 t = threadIdx.x;
  const double* v = reinterpret_cast<const double*>(in); double* o = reinterpret_cast<double*>(out); double x = v[t], y = v[256 + t], z = v[512 + t];
  { double r = 0; asm("add.rn.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[0 + t] = r; }
  { double r = 0; asm("mul.rn.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[256 + t] = r; }
  { double r = 0; asm("div.rn.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[512 + t] = r; }
  { double r = 0; asm("fma.rn.f64 %0, %1, %2, %3;" : "=d"(r) : "d"(x), "d"(y), "d"(z)); o[768 + t] = r; }
  { double r = 0; asm("sqrt.rn.f64 %0, %1;" : "=d"(r) : "d"(x)); o[1024 + t] = r; }
  { double r = 0; float f; asm("cvt.rn.f32.f64 %0, %1;" : "=f"(f) : "d"(x)); r = __longlong_as_double((long long)f32_bits(f)); o[1280 + t] = r; }
  { double r = 0; asm("add.rz.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[1536 + t] = r; }
  { double r = 0; asm("mul.rz.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[1792 + t] = r; }
  { double r = 0; asm("div.rz.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[2048 + t] = r; }
  { double r = 0; asm("fma.rz.f64 %0, %1, %2, %3;" : "=d"(r) : "d"(x), "d"(y), "d"(z)); o[2304 + t] = r; }
  { double r = 0; asm("sqrt.rz.f64 %0, %1;" : "=d"(r) : "d"(x)); o[2560 + t] = r; }
  { double r = 0; float f; asm("cvt.rz.f32.f64 %0, %1;" : "=f"(f) : "d"(x)); r = __longlong_as_double((long long)f32_bits(f)); o[2816 + t] = r; }
  { double r = 0; asm("add.rm.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[3072 + t] = r; }
  { double r = 0; asm("mul.rm.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[3328 + t] = r; }
  { double r = 0; asm("div.rm.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[3584 + t] = r; }
  { double r = 0; asm("fma.rm.f64 %0, %1, %2, %3;" : "=d"(r) : "d"(x), "d"(y), "d"(z)); o[3840 + t] = r; }
  { double r = 0; asm("sqrt.rm.f64 %0, %1;" : "=d"(r) : "d"(x)); o[4096 + t] = r; }
  { double r = 0; float f; asm("cvt.rm.f32.f64 %0, %1;" : "=f"(f) : "d"(x)); r = __longlong_as_double((long long)f32_bits(f)); o[4352 + t] = r; }
  { double r = 0; asm("add.rp.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[4608 + t] = r; }
  { double r = 0; asm("mul.rp.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[4864 + t] = r; }
  { double r = 0; asm("div.rp.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[5120 + t] = r; }
  { double r = 0; asm("fma.rp.f64 %0, %1, %2, %3;" : "=d"(r) : "d"(x), "d"(y), "d"(z)); o[5376 + t] = r; }
  { double r = 0; asm("sqrt.rp.f64 %0, %1;" : "=d"(r) : "d"(x)); o[5632 + t] = r; }
  { double r = 0; float f; asm("cvt.rp.f32.f64 %0, %1;" : "=f"(f) : "d"(x)); r = __longlong_as_double((long long)f32_bits(f)); o[5888 + t] = r; }
  { double r = 0; asm("min.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[6144 + t] = r; }
  { double r = 0; asm("max.f64 %0, %1, %2;" : "=d"(r) : "d"(x), "d"(y)); o[6400 + t] = r; }
  { double r = 0; asm("cvt.rni.f64.f64 %0, %1;" : "=d"(r) : "d"(x)); o[6656 + t] = r; }
  { double r = 0; asm("cvt.rzi.f64.f64 %0, %1;" : "=d"(r) : "d"(x)); o[6912 + t] = r; }
  { double r = 0; asm("cvt.rmi.f64.f64 %0, %1;" : "=d"(r) : "d"(x)); o[7168 + t] = r; }
  { double r = 0; long long q; asm("cvt.rzi.s64.f64 %0, %1;" : "=l"(q) : "d"(x)); r = __longlong_as_double(q); o[7424 + t] = r; }
  { double r = 0; long long q; asm("cvt.rni.u64.f64 %0, %1;" : "=l"(q) : "d"(x)); r = __longlong_as_double(q); o[7680 + t] = r; }
  { double r = 0; u32 q; asm("cvt.rzi.s32.f64 %0, %1;" : "=r"(q) : "d"(x)); r = __longlong_as_double((long long)q); o[7936 + t] = r; }
  { double r = 0; u32 q; asm("cvt.rni.u32.f64 %0, %1;" : "=r"(q) : "d"(x)); r = __longlong_as_double((long long)q); o[8192 + t] = r; }
  { double r = 0; asm("cvt.rn.f64.s64 %0, %1;" : "=d"(r) : "l"(__double_as_longlong(x))); o[8448 + t] = r; }
  { double r = 0; asm("cvt.rz.f64.u64 %0, %1;" : "=d"(r) : "l"(__double_as_longlong(x))); o[8704 + t] = r; }
  { double r = 0; float f; asm("cvt.rn.f32.u64 %0, %1;" : "=f"(f) : "l"(__double_as_longlong(x))); r = __longlong_as_double((long long)f32_bits(f)); o[8960 + t] = r; }
  { double r = 0; float f; asm("cvt.rz.f32.s64 %0, %1;" : "=f"(f) : "l"(__double_as_longlong(x))); r = __longlong_as_double((long long)f32_bits(f)); o[9216 + t] = r; }
  { double r = 0; float f; asm("cvt.rp.f32.s64 %0, %1;" : "=f"(f) : "l"(__double_as_longlong(x))); r = __longlong_as_double((long long)f32_bits(f)); o[9472 + t] = r; }
  { double r = 0; long long q; asm("mul.hi.s64 %0, %1, %2;" : "=l"(q) : "l"(__double_as_longlong(x)), "l"(__double_as_longlong(y))); r = __longlong_as_double(q); o[9728 + t] = r; }
  { double r = 0; long long q; asm("shr.s64 %0, %1, %2;" : "=l"(q) : "l"(__double_as_longlong(x)), "r"((u32)__double_as_longlong(y))); r = __longlong_as_double(q); o[9984 + t] = r; }
  (void)z;
}
