use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use vila_engine::DType;

use super::{Failure, Outcome, Usage, print, print_json};
use crate::plan::{Assume, Document, DryDevice, PARTS, Plan, PlanOptions, PolicyPlan, StagePlan, plan};
use crate::plan::{POLICIES, trained_parameters};
use crate::recipe::Recipe;

#[derive(Args)]
pub(super) struct PlanArguments {
    /// The recipe.
    recipe: PathBuf,
    /// Overrides such as stage.sft.capacity=32768.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Memory of a device in GiB (2^30 bytes; NVIDIA's names round these), or with a unit: 141GiB, 151GB.
    #[arg(long, value_name = "GIB")]
    device_memory: Option<String>,
    /// Devices; Adam's moments are split among them (ZeRO-1).
    #[arg(long, default_value_t = 1)]
    ranks: u64,
    /// cpu | cuda | emulator: whose working memory and block sizes to count.
    #[arg(long, default_value = DEFAULT_DEVICE)]
    device: String,
    /// Share of the peak at which matrix products run, those of recompute included.
    #[arg(long, default_value_t = 0.45)]
    mfu: f64,
    /// Dense peak of a device in TFLOP/s; by default that of H100 and H200 on cuda: 989 in bf16, 67 in f32.
    #[arg(long, value_name = "TFLOPS")]
    peak: Option<f64>,
    /// For the cost.
    #[arg(long, value_name = "PRICE")]
    price_per_gpu_hour: Option<f64>,
    /// Do not read shards: full micro-batches of mean documents. Without a value the documents are those of the sources'
    /// formats (mmc4 4 images and 490 text tokens, pairs 1 and 23, llava 1 and 256, text 512 tokens).
    #[arg(long, value_name = "IMAGES:TEXT", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    assume: Option<String>,
    /// Size of the vocabulary, where the recipe's tokenizer is not there.
    #[arg(long, default_value_t = 32_000)]
    vocab: usize,
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

const DEFAULT_DEVICE: &str = if cfg!(feature = "cuda") { "cuda" } else { "cpu" };

/// Dense bf16 FLOP/s of the paper's devices.
const A100: f64 = 312e12;
/// GPU hours of the paper's 7B run.
const PAPER: &str = "the paper's 7B run (spec 4.1): 4 + 30 + 6 hours on 128 A100s, 5.1k GPU hours";

pub(super) fn run(arguments: &PlanArguments) -> Result<Outcome, Failure> {
    let options = options(arguments)?;
    let recipe = Recipe::read(&arguments.recipe, &arguments.sets)?;
    let plan = plan(&recipe, &arguments.recipe, &options)?;
    let chosen = vila_autograd::Recompute::from(recipe.model.recompute);
    let chosen = POLICIES.iter().position(|(policy, _)| *policy == chosen).unwrap_or(0);
    let report = Report { plan: &plan, options, rates: rates(arguments, &plan)?, chosen };
    if arguments.json {
        print_json(&report.json())?
    } else {
        print(&report.text())?
    }
    Ok(Outcome::Done)
}

fn options(arguments: &PlanArguments) -> Result<PlanOptions, Usage> {
    let device = DryDevice::parse(&arguments.device);
    let assume = match arguments.assume.as_deref() {
        None => Assume::Nothing,
        Some("") => Assume::Formats,
        Some(text) => Assume::Document(document(text)?),
    };
    if arguments.ranks == 0 || !(5..1 << 24).contains(&arguments.vocab) {
        return Err(Usage("--ranks must be positive, --vocab at least 5 and below 2^24".into()));
    }
    Ok(PlanOptions {
        device: device
            .ok_or_else(|| Usage(format!("--device {}: there are cpu, cuda and emulator", arguments.device)))?,
        memory: arguments.device_memory.as_deref().map(memory).transpose()?,
        ranks: arguments.ranks,
        assume,
        vocab: arguments.vocab,
    })
}

/// Bytes of `141`, `141GiB` or `151GB`.
fn memory(text: &str) -> Result<u64, Usage> {
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = match (lower.strip_suffix("gib"), lower.strip_suffix("gb")) {
        (Some(number), _) => (number, f64::from(1 << 30)),
        (_, Some(number)) => (number, 1e9),
        _ => (lower.as_str(), f64::from(1 << 30)),
    };
    let bytes = number.trim().parse::<f64>().ok().map(|number| number * unit);
    let bytes = bytes.filter(|bytes| (1.0..=1e18).contains(bytes));
    bytes.map(|bytes| bytes as u64).ok_or_else(|| Usage(format!("--device-memory {text}: expected GiB, such as 141")))
}

fn document(text: &str) -> Result<Document, Usage> {
    let wrong = || Usage(format!("--assume {text}: expected images and text tokens of a mean document, such as 4:490"));
    let (images, tokens) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| (0.0..1e9).contains(number));
    Ok(Document { images: number(images).ok_or_else(wrong)?, text: number(tokens).ok_or_else(wrong)? })
}

struct Rates {
    mfu: f64,
    /// FLOP/s of a device.
    peak: Option<f64>,
    price: Option<f64>,
}

fn rates(arguments: &PlanArguments, plan: &Plan) -> Result<Rates, Usage> {
    let positive = |name: &str, value: f64| match value > 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(Usage(format!("--{name} {value}: expected a positive number"))),
    };
    if arguments.mfu > 1.0 {
        return Err(Usage(format!("--mfu {}: a share of the peak is 1 at most, such as 0.45", arguments.mfu)));
    }
    let known = arguments.device.starts_with("cuda").then_some(if plan.dtype == DType::BF16 { 989.0 } else { 67.0 });
    let peak = arguments.peak.map(|peak| positive("peak", peak)).transpose()?.or(known);
    let price = arguments.price_per_gpu_hour.map(|price| positive("price-per-gpu-hour", price)).transpose()?;
    Ok(Rates { mfu: positive("mfu", arguments.mfu)?, peak: peak.map(|peak| peak * 1e12), price })
}

struct Report<'a> {
    plan: &'a Plan,
    options: PlanOptions,
    rates: Rates,
    /// The recipe's own recompute policy.
    chosen: usize,
}

/// What sizes are printed in.
#[derive(Clone, Copy)]
enum Unit {
    Gib,
    Mib,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Gib => "GiB",
            Unit::Mib => "MiB",
        }
    }

    fn of(self, bytes: u64) -> String {
        let unit: u32 = match self {
            Unit::Gib => 1 << 30,
            Unit::Mib => 1 << 20,
        };
        format!("{:.3}", bytes as f64 / f64::from(unit))
    }
}

/// Three digits at least, whatever the size.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{value:.3e}"),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 || value == 0.0 => format!("{value:.2}"),
        value => format!("{value:.2e}"),
    }
}

impl Report<'_> {
    fn stage_flops(&self, stage: &StagePlan, policy: &PolicyPlan) -> f64 {
        stage.stage.steps as f64 * policy.flops.total()
    }

    fn gpu_hours(&self, flops: f64) -> Option<f64> {
        self.rates.peak.map(|peak| flops / (peak * self.rates.mfu) / 3600.0)
    }

    fn wall_hours(&self, flops: f64) -> Option<f64> {
        self.gpu_hours(flops).map(|hours| hours / self.options.ranks as f64)
    }

    fn cost(&self, flops: f64) -> Option<f64> {
        Some(self.gpu_hours(flops)? * self.rates.price?)
    }

    /// FLOPs of all stages under the recipe's policy.
    fn run_flops(&self) -> f64 {
        self.plan.stages.iter().map(|stage| self.stage_flops(stage, &stage.policies[self.chosen])).sum()
    }

    fn a100_hours(&self) -> f64 {
        self.run_flops() / (A100 * self.rates.mfu) / 3600.0
    }

    /// GiB, unless all is smaller.
    fn unit(&self) -> Unit {
        let policies = self.plan.stages.iter().flat_map(|stage| &stage.policies);
        let most = policies.map(|policy| policy.total - self.options.device.overhead()).max();
        if most.unwrap_or(0) < 1 << 30 { Unit::Mib } else { Unit::Gib }
    }

    fn dtype(&self) -> &'static str {
        if self.plan.dtype == DType::BF16 { "bf16" } else { "f32" }
    }

    fn text(&self) -> String {
        let [tower, projector, decoder] = self.plan.parameters;
        let (unit, memory) = (self.unit(), self.options.memory);
        let memory = memory.map_or(String::new(), |memory| format!(" with {} {}", unit.of(memory), unit.name()));
        let mut text = format!(
            "parameters: decoder {decoder}, projector {projector}, vision tower {tower} (without unused blocks)\n\
             {}, {} x {}{memory}\n",
            self.dtype(),
            self.options.ranks,
            self.device()
        );
        self.plan.stages.iter().for_each(|stage| text += &self.stage_text(stage));
        text + &self.summary()
    }

    fn device(&self) -> &'static str {
        match self.options.device {
            DryDevice::Cpu => "cpu",
            DryDevice::Cuda => "cuda",
            DryDevice::Emulator => "emulator",
        }
    }

    fn stage_text(&self, plan: &StagePlan) -> String {
        let (stage, content, unit) = (&plan.stage, &plan.content, self.unit());
        let totals = plan.totals();
        let parts: Vec<String> = stage.train.iter().map(|part| format!("{part:?}").to_lowercase()).collect();
        let mut text = format!(
            "\nstage {}: trains {} ({} parameters); {} steps of {} documents, capacity {}\n\
             {}: {:.1} micro-batches a step, at most {:.0} positions, {:.0} images, {:.0} supervised tokens in one\n\
             in all {} documents, {:.4e} images, {:.4e} positions, {:.4e} supervised tokens\n",
            stage.name,
            parts.join(", "),
            trained_parameters(&self.plan.config, stage),
            stage.steps,
            stage.documents,
            stage.capacity,
            content.from,
            content.micro_batches,
            content.most.positions,
            content.most.images,
            content.most.supervised,
            totals.documents,
            totals.images,
            totals.positions,
            totals.supervised
        );
        let names = plan.policies.iter().enumerate();
        let names = names.map(|(i, policy)| policy.name.to_string() + if i == self.chosen { " *" } else { "" });
        text += &row(&format!("{} at the peak of a step", unit.name()), names);
        let policies = || plan.policies.iter();
        for (index, part) in PARTS.into_iter().enumerate() {
            text += &row(part, policies().map(|policy| unit.of(policy.parts[index])));
        }
        let overhead = self.options.device.overhead();
        if overhead > 0 {
            text += &row("context and libraries", policies().map(|_| unit.of(overhead)));
        }
        let split =
            if self.options.ranks > 1 { format!("total, moments / {}", self.options.ranks) } else { "total".into() };
        text += &row(&split, policies().map(|policy| unit.of(policy.total)));
        text += &row("while the stage begins", policies().map(|_| unit.of(plan.start + overhead)));
        if self.options.memory.is_some() {
            let verdict = |policy: &PolicyPlan| if policy.fits == Some(true) { "yes" } else { "no" };
            text += &row("fits", policies().map(|policy| verdict(policy).into()));
            let largest = |policy: &PolicyPlan| policy.largest_capacity.map_or("none".into(), |n| n.to_string());
            text += &row("largest capacity", policies().map(largest));
        }
        for (policy, name) in plan.policies.iter().map(|policy| (policy, policy.name)) {
            text += &format!("activations under {name}: {}\n", holders(policy, unit));
        }
        text += &row("TFLOPs per step", policies().map(|_| String::new()));
        let tera = |flops: f64| short(flops / 1e12);
        text += &row("forward", policies().map(|policy| tera(policy.flops.forward)));
        text += &row("backward", policies().map(|policy| tera(policy.flops.backward)));
        text += &row("computed again", policies().map(|policy| tera(policy.flops.recompute)));
        let flops = |policy: &PolicyPlan| self.stage_flops(plan, policy);
        text += &row("TFLOPs of the stage", policies().map(|policy| tera(flops(policy))));
        let mut optional = |name: &str, value: &dyn Fn(f64) -> Option<f64>| {
            if value(1.0).is_some() {
                text += &row(name, policies().map(|policy| value(flops(policy)).map_or(String::new(), short)));
            }
        };
        optional("GPU hours", &|flops| self.gpu_hours(flops));
        optional("wall hours", &|flops| self.wall_hours(flops));
        optional("cost", &|flops| self.cost(flops));
        text
    }

    fn summary(&self) -> String {
        let flops = self.run_flops();
        let mut text = format!("\nall stages under {}: {} TFLOPs", POLICIES[self.chosen].1, short(flops / 1e12));
        if let (Some(gpu), Some(wall)) = (self.gpu_hours(flops), self.wall_hours(flops)) {
            text += &format!(", {} GPU hours, {} wall hours", short(gpu), short(wall));
        }
        if let Some(cost) = self.cost(flops) {
            text += &format!(", cost {}", short(cost));
        }
        text += "\nFLOPs are those of matrix products as they run, 2 m n k each; attention 4 x width forward and 10 x width \
                 backward for each\npair of positions that see each other. ";
        if let Some(peak) = self.rates.peak {
            text += &format!("GPU hours = FLOPs / ({} TFLOP/s x {}) / 3600. ", peak / 1e12, self.rates.mfu);
        } else {
            text += "Give --peak for hours. ";
        }
        text + &format!(
            "Wall hours divide by the ranks.\n{PAPER}; this recipe's FLOPs at {} of {} TFLOP/s: {} A100 hours\n",
            self.rates.mfu,
            A100 / 1e12,
            short(self.a100_hours())
        )
    }

    fn json(&self) -> Value {
        let [tower, projector, decoder] = self.plan.parameters;
        let flops = self.run_flops();
        json!({
            "device": self.device(),
            "dtype": self.dtype(),
            "ranks": self.options.ranks,
            "device_memory_bytes": self.options.memory,
            "overhead_bytes": self.options.device.overhead(),
            "utilisation": self.rates.mfu,
            "peak_flop_per_s": self.rates.peak,
            "parameters": {"decoder": decoder, "projector": projector, "vision_tower": tower},
            "recompute": POLICIES[self.chosen].1,
            "stages": self.plan.stages.iter().map(|stage| self.stage_json(stage)).collect::<Vec<_>>(),
            "flops": flops,
            "gpu_hours": self.gpu_hours(flops),
            "wall_hours": self.wall_hours(flops),
            "cost": self.cost(flops),
            "a100_hours": self.a100_hours(),
            "paper_a100_hours": 5100,
        })
    }

    fn stage_json(&self, plan: &StagePlan) -> Value {
        let (content, totals) = (&plan.content, plan.totals());
        json!({
            "name": plan.stage.name,
            "train": plan.stage.train,
            "trained_parameters": trained_parameters(&self.plan.config, &plan.stage),
            "steps": plan.stage.steps,
            "documents": plan.stage.documents,
            "capacity": plan.stage.capacity,
            "content": {
                "from": content.from,
                "micro_batches_per_step": content.micro_batches,
                "most_positions": content.most.positions,
                "most_images": content.most.images,
                "most_supervised": content.most.supervised,
            },
            "total": {
                "documents": totals.documents,
                "images": totals.images,
                "positions": totals.positions,
                "supervised": totals.supervised,
            },
            "begin_bytes": plan.start,
            "policies": plan.policies.iter().map(|policy| self.policy_json(plan, policy)).collect::<Vec<_>>(),
        })
    }

    fn policy_json(&self, plan: &StagePlan, policy: &PolicyPlan) -> Value {
        let bytes: serde_json::Map<_, _> =
            PARTS.iter().zip(policy.parts).map(|(part, bytes)| ((*part).into(), json!(bytes))).collect();
        let activations = policy.activations.iter();
        let activations: Vec<Value> =
            activations.map(|(op, held)| json!({"op": op, "tensors": held.tensors, "bytes": held.bytes})).collect();
        let flops = self.stage_flops(plan, policy);
        json!({
            "recompute": policy.name,
            "bytes": bytes,
            "total_bytes": policy.total,
            "fits": policy.fits,
            "largest_capacity": policy.largest_capacity,
            "activations": activations,
            "flops_per_step": {
                "forward": policy.flops.forward,
                "backward": policy.flops.backward,
                "recompute": policy.flops.recompute,
            },
            "flops": flops,
            "gpu_hours": self.gpu_hours(flops),
            "wall_hours": self.wall_hours(flops),
            "cost": self.cost(flops),
        })
    }
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!("{cell:>14}")).collect();
    format!("{}\n", format!("{name:<26}{cells}").trim_end())
}

/// The ops that hold most activations at the peak.
fn holders(policy: &PolicyPlan, unit: Unit) -> String {
    let most = policy.activations.iter().take(5);
    most.map(|(op, held)| format!("{op} {}", unit.of(held.bytes))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::memory;

    #[test]
    fn plain_numbers_are_gib() {
        assert_eq!(memory("80").ok(), Some(80 << 30));
        assert_eq!(memory("1.5 GiB").ok(), Some(3 << 29));
        assert_eq!(memory("141GB").ok(), Some(141_000_000_000));
        for wrong in ["", "-1", "nan", "inf", "1e300", "80 TB", "0"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }
}
