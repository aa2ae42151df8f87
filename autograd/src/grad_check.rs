use vila_engine::philox::Stream;
use vila_engine::{Backend, CpuBackend, DType, Error, Result, Tensor};

use crate::{ParamSpec, ParamStore, Tape, Var};

/// Relative error ‖analytic - numeric‖ / ‖numeric‖ of one operand's gradient.
#[derive(Clone, Debug)]
pub struct GradCheck {
    /// The parameter's name, or `input i`.
    pub operand: String,
    /// Relative error over the elements that were probed.
    pub error: f64,
}

/// Step of the central difference, near the cube root of the f64 epsilon.
const STEP: f64 = 1e-5;
/// Elements probed per operand.
const PROBES: usize = 24;

/// Compares the gradients of `f` with central differences, in f64 on the reference.
///
/// `inputs` are shapes of random inputs with a gradient; parameters start as `specs` say. The checked
/// function is the inner product of the output of `f` with a random tensor, or the output itself if it
/// is a single element.
pub fn grad_check(
    seed: u64,
    inputs: &[(usize, usize)],
    specs: Vec<ParamSpec>,
    f: impl for<'a> Fn(&mut Tape<'a>, &[Var<'a>]) -> Result<Var<'a>>,
) -> Result<Vec<GradCheck>> {
    let cpu = CpuBackend::reference();
    let store = ParamStore::new(&cpu, specs, DType::F64, seed, |_| true)?;
    let mut random = Stream::new(seed, 1);
    let inputs = inputs
        .iter()
        .map(|&(rows, cols)| {
            let tensor = cpu.alloc(DType::F64, rows, cols)?;
            tensor.set_f64(&(0..rows * cols).map(|_| random.normal()).collect::<Vec<_>>())?;
            Ok(tensor)
        })
        .collect::<Result<Vec<_>>>()?;
    let evaluate = |weights: &mut Option<Vec<f64>>| -> Result<f64> {
        let mut tape = Tape::new(&cpu, &store);
        let vars: Vec<Var> =
            inputs.iter().map(|x| copy(&cpu, x).map(|x| tape.input(x, true))).collect::<Result<_>>()?;
        let y = f(&mut tape, &vars)?.tensor().to_f64()?;
        let weights = weights.get_or_insert_with(|| direction(y.len(), seed));
        Ok(y.iter().zip(weights).map(|(y, w)| y * *w).sum())
    };

    let mut tape = Tape::new(&cpu, &store);
    let vars: Vec<Var> = inputs.iter().map(|x| copy(&cpu, x).map(|x| tape.input(x, true))).collect::<Result<_>>()?;
    let y = f(&mut tape, &vars)?;
    let seed_grad = cpu.alloc(DType::F64, y.tensor().rows(), y.tensor().cols())?;
    seed_grad.set_f64(&direction(y.tensor().len(), seed))?;
    tape.backward([(&y, seed_grad)])?;

    let mut operands: Vec<(String, Tensor, Vec<f64>)> = Vec::new();
    for (i, (var, input)) in vars.iter().zip(&inputs).enumerate() {
        let grad = tape.grad(var).map_or(Ok(vec![0.0; input.len()]), Tensor::to_f64)?;
        operands.push((format!("input {i}"), input.clone(), grad));
    }
    for id in store.ids() {
        let grad = store.grad(id).map_or(Ok(vec![]), Tensor::to_f64)?;
        operands.push((store.spec(id).name.clone(), store.weight(id)?.clone(), grad));
    }
    drop(tape);

    let mut weights = None;
    operands
        .into_iter()
        .map(|(operand, tensor, grad)| {
            let (mut difference, mut norm) = (0.0, 0.0);
            for element in probes(tensor.len(), &mut random) {
                let numeric = central_difference(&tensor, element, || evaluate(&mut weights))?;
                difference += (grad[element] - numeric).powi(2);
                norm += numeric.powi(2);
            }
            let error = if norm > 0.0 { (difference / norm).sqrt() } else { difference.sqrt() };
            if error.is_nan() {
                return Err(Error::Argument {
                    op: "grad_check",
                    message: format!("gradient of {operand} is not a number"),
                });
            }
            Ok(GradCheck { operand, error })
        })
        .collect()
}

fn copy(cpu: &CpuBackend, x: &Tensor) -> Result<Tensor> {
    let y = cpu.alloc(x.dtype(), x.rows(), x.cols())?;
    y.set_f64(&x.to_f64()?)?;
    Ok(y)
}

fn direction(len: usize, seed: u64) -> Vec<f64> {
    let mut random = Stream::new(seed, 2);
    if len == 1 { vec![1.0] } else { (0..len).map(|_| random.normal()).collect() }
}

fn probes(len: usize, random: &mut Stream) -> Vec<usize> {
    if len <= PROBES { (0..len).collect() } else { (0..PROBES).map(|_| random.below(len)).collect() }
}

fn central_difference(tensor: &Tensor, element: usize, mut f: impl FnMut() -> Result<f64>) -> Result<f64> {
    let values = tensor.to_f64()?;
    let mut at = |offset: f64| {
        let mut moved = values.clone();
        moved[element] += offset;
        tensor.set_f64(&moved)?;
        f()
    };
    // The fourth-order stencil: its truncation error is below rounding at this step.
    let step = STEP * 30.0;
    let difference = 8.0 * (at(step)? - at(-step)?) - (at(2.0 * step)? - at(-2.0 * step)?);
    tensor.set_f64(&values)?;
    Ok(difference / (12.0 * step))
}
