use crate::Result;
use crate::ops::GradientGate;

pub fn gate(args: &GradientGate) -> Result<()> {
    let norm = args.sum.to_vec::<f64>()?[0].sqrt();
    let losses = args.losses.map_or(Ok(Vec::new()), |losses| losses.to_vec::<f32>())?;
    let finite = norm.is_finite() && losses.iter().all(|loss| loss.is_finite());
    let clipped = args.clip > 0.0 && norm > args.clip;
    let scale = match (finite, clipped) {
        (false, _) => 0.0,
        (true, true) => args.clip / norm,
        (true, false) => 1.0,
    };
    args.gate.set(&[scale as f32, norm as f32, f32::from(u8::from(finite)), 0.0])?;
    let updates = args.updates.to_vec::<u32>()?[0];
    args.updates.set(&[updates + u32::from(finite)])
}
