//! How this process joins the others of its run.

use std::time::Duration;

use vila_engine::Backend;

use super::{Collective, Facts, HostCollective, Job, Launch, Meeting, Seat, Tcp, TensorsOverNccl, agree_on, threads};
use crate::recipe::Recipe;
use crate::say::say;
use crate::{Error, Result};

/// A rank that is among the others.
pub struct Joined {
    /// Talks to them.
    pub collective: Box<dyn Collective>,
    /// How tensors travel, in a few words.
    pub label: String,
}

/// How long a rank may take to stop by itself once another is lost.
const GRACE: Duration = Duration::from_secs(3);

/// Joins the other processes of a launch that train the same recipe: over TCP or MPI, and for tensors over NCCL where all ranks can.
///
/// Once another rank is lost, this process ends within seconds, even in the middle of a long op.
///
/// # Errors
/// [`Error::Ranks`] if they do not find each other, or cannot use what `VILA_TRANSPORT` asks for.
pub fn join(launch: &Launch, recipe: &Recipe, backend: &dyn Backend) -> Result<Joined> {
    let (rank, world, secret, job) = (launch.rank, launch.world, launch.secret.clone(), job(launch, recipe));
    let mut facts = Facts::new().with("number of ranks", world).with("job", &job.launch).with("folder", &job.out);
    facts = facts.with("NCCL", format!("{:?}, {}", launch.nccl, cfg!(feature = "nccl")));
    let host = match launch.meeting.clone() {
        Meeting::Alone => threads(1)?.pop().ok_or_else(|| Error::Ranks("there is no rank".into()))?,
        Meeting::Tcp(rendezvous) => {
            let seat = Seat { rank, world, job, secret, rendezvous };
            HostCollective::watched(move || Tcp::join(&seat), stop)?
        }
        Meeting::Mpi => over_mpi(rank, world)?,
    };
    if world > 1 {
        agree_on(&host, &Facts::program().and(facts))?;
    }
    match launch.nccl {
        TensorsOverNccl::Never => Ok(through_host(host)),
        wanted => over_nccl(host, backend, wanted),
    }
}

fn job(launch: &Launch, recipe: &Recipe) -> Job {
    let out = std::path::absolute(&recipe.out).unwrap_or_else(|_| recipe.out.clone());
    Job { launch: launch.job.clone(), out: out.display().to_string(), recipe: recipe.hash().into() }
}

/// Ends the process unless it ends by itself: the op in progress may take long, or wait for the lost rank.
fn stop(lost: Error) {
    std::thread::spawn(move || {
        std::thread::sleep(GRACE);
        say(format_args!("error: {lost}"));
        signal_hook::low_level::exit(1);
    });
}

fn through_host(host: HostCollective) -> Joined {
    Joined { collective: Box::new(host), label: "tensors through host memory".into() }
}

#[cfg(feature = "mpi")]
fn over_mpi(rank: usize, world: usize) -> Result<HostCollective> {
    HostCollective::watched(move || super::Mpi::join(rank, world), stop)
}

#[cfg(not(feature = "mpi"))]
fn over_mpi(_: usize, _: usize) -> Result<HostCollective> {
    Err(Error::Ranks(
        "this program was built without MPI: build it with `--features mpi`, or set VILA_TRANSPORT=tcp".into(),
    ))
}

/// Every rank says what keeps it from NCCL, so that all choose alike.
#[cfg(feature = "nccl")]
fn over_nccl(host: HostCollective, backend: &dyn Backend, wanted: TensorsOverNccl) -> Result<Joined> {
    let problem = super::NcclCollective::check(backend).err().map(|error| error.to_string()).unwrap_or_default();
    let said = host.tell_all(problem.into_bytes())?;
    match said.iter().enumerate().find(|(_, problem)| !problem.is_empty()) {
        None => {
            let collective = Box::new(super::NcclCollective::new(host, backend)?);
            Ok(Joined { collective, label: "tensors over NCCL".into() })
        }
        Some((rank, problem)) if wanted == TensorsOverNccl::Always => {
            let problem = super::host::plain(&String::from_utf8_lossy(problem));
            Err(Error::Ranks(format!("VILA_TRANSPORT is nccl, but rank {rank} cannot use NCCL: {problem}")))
        }
        Some(_) => Ok(through_host(host)),
    }
}

#[cfg(not(feature = "nccl"))]
fn over_nccl(host: HostCollective, _: &dyn Backend, wanted: TensorsOverNccl) -> Result<Joined> {
    match wanted {
        TensorsOverNccl::Always => Err(Error::Ranks(
            "this program was built without NCCL: build it with `--features nccl`, or unset VILA_TRANSPORT".into(),
        )),
        _ => Ok(through_host(host)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vila_engine::CpuBackend;

    use super::*;
    use crate::ranks::SecretSource;

    const RECIPE: &str = r#"
        out = "run"
        [model]
        from = "model"
        [sources.text]
        shard = "text"
        [[stage]]
        name = "text"
        train = ["llm"]
        data = { text = 1.0 }
        steps = 1
        documents = 1
        capacity = 8
        lr = 1e-3
    "#;

    #[test]
    fn without_nccl_tensors_go_through_host_memory_unless_it_is_asked_for() {
        let launch = |nccl| Launch {
            rank: 0,
            world: 1,
            local_rank: 0,
            meeting: Meeting::Alone,
            nccl,
            launcher: "test",
            job: String::new(),
            secret: SecretSource::Home(None),
        };
        let recipe = Recipe::parse(RECIPE, Path::new("recipe.toml"), Path::new("."), &[]).expect("recipe");
        let cpu = CpuBackend::fast();
        let joined = join(&launch(TensorsOverNccl::IfPossible), &recipe, &cpu).expect("one rank");
        assert_eq!((joined.collective.world(), joined.label.as_str()), (1, "tensors through host memory"));
        let error =
            join(&launch(TensorsOverNccl::Always), &recipe, &cpu).err().expect("no NCCL on the CPU").to_string();
        let reason = if cfg!(feature = "nccl") { "rank 0 cannot use NCCL" } else { "built without NCCL" };
        assert!(error.contains(reason), "{error}");
    }
}
