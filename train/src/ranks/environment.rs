use std::path::PathBuf;

use super::host::plain;
use super::{Rendezvous, SecretSource};
use crate::{Error, Result};

/// Most ranks of a run: every pair of them has a connection.
pub const MOST_RANKS: usize = 4096;

/// Most ranks that are threads of this process.
pub fn most_threads() -> usize {
    8 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// How ranks reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Over TCP.
    Tcp(Rendezvous),
    /// As processes of one MPI job.
    Mpi,
    /// There is one rank.
    Alone,
}

impl std::fmt::Display for Meeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Meeting::Tcp(rendezvous) => write!(f, "meeting over TCP at {rendezvous}"),
            Meeting::Mpi => f.write_str("meeting over MPI"),
            Meeting::Alone => f.write_str("alone"),
        }
    }
}

/// Whether tensors travel from device to device over NCCL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorsOverNccl {
    /// Where every rank can.
    IfPossible,
    /// Or the run fails.
    Always,
    /// They go through host memory.
    Never,
}

/// One process of many, as its launcher describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// This process.
    pub rank: usize,
    /// Number of processes.
    pub world: usize,
    /// This process among those of its machine; picks the GPU.
    pub local_rank: usize,
    /// How they meet.
    pub meeting: Meeting,
    /// How tensors travel.
    pub nccl: TensorsOverNccl,
    /// Which launcher said so.
    pub launcher: &'static str,
    /// What it calls the job.
    pub job: String,
    /// Where the job's secret stands.
    pub secret: SecretSource,
}

/// Names of the variables of one launcher.
struct Names {
    launcher: &'static str,
    rank: &'static str,
    world: &'static str,
    local_rank: &'static str,
    /// The number of processes on this machine, or of machines, and whether it is the latter.
    local: (&'static [&'static str], bool),
    /// What tells one job from another.
    job: &'static [&'static str],
}

const OPEN_MPI: &str = "Open MPI";
const SLURM: &str = "SLURM";

/// In the order in which they are looked for: a person can set torchrun's variables under any other launcher.
const LAUNCHERS: [Names; 3] = [
    Names {
        launcher: "torchrun",
        rank: "RANK",
        world: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local: (&["LOCAL_WORLD_SIZE"], false),
        job: &["TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"],
    },
    Names {
        launcher: OPEN_MPI,
        rank: "OMPI_COMM_WORLD_RANK",
        world: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local: (&["OMPI_COMM_WORLD_LOCAL_SIZE"], false),
        job: &["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"],
    },
    Names {
        launcher: SLURM,
        rank: "SLURM_PROCID",
        world: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        local: (&["SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES"], true),
        job: &["SLURM_JOB_ID", "SLURM_STEP_ID"],
    },
];

impl Names {
    /// The job as its launcher calls it.
    fn job(&self, variable: &impl Fn(&str) -> Option<String>) -> String {
        let named = self.job.iter().filter_map(|name| Some(format!("{name}={}", variable(name)?)));
        std::iter::once(self.launcher.to_string()).chain(named).collect::<Vec<_>>().join(" ")
    }

    /// Whether the launcher says that all processes are on this machine.
    fn one_machine(&self, variable: &impl Fn(&str) -> Option<String>) -> bool {
        let (names, counts_machines) = self.local;
        let all = if counts_machines { Some("1".into()) } else { variable(self.world) };
        names.iter().find_map(|name| variable(name)).is_some_and(|local| Some(local) == all)
    }
}

/// Steps of a SLURM job that are not of `srun` have numbers from here: the batch script's, an interactive shell's.
const SPECIAL_STEPS: u64 = 0xffff_fff0;

/// Whether this process runs in SLURM's batch script itself, which is one process however many tasks were asked for.
fn is_batch_script(variable: &impl Fn(&str) -> Option<String>) -> bool {
    match variable("SLURM_STEP_ID").or_else(|| variable("SLURM_STEPID")) {
        Some(step) => step.trim().parse::<u64>().map_or(true, |step| step >= SPECIAL_STEPS),
        // `srun` numbers its steps.
        None => variable("SLURM_PROCID").is_some_and(|task| task.trim() == "0"),
    }
}

/// What to tell a person whose launcher made one process of what may have been meant as several.
pub fn batch_script_note(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let slurm = started_by(&variable).is_none() && is_batch_script(&variable) && variable("SLURM_PROCID").is_some();
    let tasks = variable("SLURM_NTASKS").filter(|tasks| slurm && tasks.trim() != "1")?;
    Some(format!(
        "SLURM has {} tasks for this job, but its batch script is one process, which goes on alone; `srun vila ...` in the \
         script starts one for each task",
        plain(tasks.trim())
    ))
}

/// The launcher that started this process as one of several.
fn started_by(variable: &impl Fn(&str) -> Option<String>) -> Option<&'static Names> {
    let set = |names: &&Names| {
        let set = variable(names.world).is_some() && variable(names.rank).is_some();
        set && !(names.launcher == SLURM && is_batch_script(variable))
    };
    LAUNCHERS.iter().find(set)
}

/// Ports that are derived from job numbers lie above this.
const JOB_PORTS: u64 = 20_000;

/// What the environment says about other processes of this run; nothing if it is alone. `VILA_TRANSPORT` says how they
/// talk: `tcp`, `mpi`, or `nccl` for tensors, which makes even one rank use it.
///
/// # Errors
/// [`Error::Ranks`] names the variable that is missing or has no useful value.
pub fn launch(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
    let transport = variable("VILA_TRANSPORT").unwrap_or_default();
    let nccl = match transport.trim() {
        "" => TensorsOverNccl::IfPossible,
        "nccl" => TensorsOverNccl::Always,
        "tcp" | "mpi" => TensorsOverNccl::Never,
        other => return Err(Error::Ranks(format!("VILA_TRANSPORT is `{other}`; there are tcp, mpi and nccl"))),
    };
    let alone = || {
        let (meeting, launcher, job) = (Meeting::Alone, "VILA_TRANSPORT", String::new());
        let secret = SecretSource::Home(None);
        let launch = Launch { rank: 0, world: 1, local_rank: 0, meeting, nccl, launcher, job, secret };
        Ok((nccl == TensorsOverNccl::Always).then_some(launch))
    };
    let Some(names) = started_by(&variable) else { return alone() };
    let wrong = |problem: String| Error::Ranks(format!("{problem} (set by {})", names.launcher));
    let number = |name: &str| {
        let value = variable(name).unwrap_or_default();
        let number = value.trim().parse::<usize>();
        number.map_err(|_| wrong(format!("{name} is `{}`, not a number up to {MOST_RANKS}", plain(&value))))
    };
    let (rank, world) = (number(names.rank)?, number(names.world)?);
    if world == 0 || world > MOST_RANKS {
        return Err(wrong(format!("{} is {world}; a run has from 1 to {MOST_RANKS} ranks", names.world)));
    }
    if rank >= world {
        return Err(wrong(format!("{} is {rank}, but {} is {world}", names.rank, names.world)));
    }
    if world == 1 {
        return alone();
    }
    let local_rank = if variable(names.local_rank).is_some() { number(names.local_rank)? } else { rank };
    if local_rank >= world {
        return Err(wrong(format!("{} is {local_rank}, but {} is {world}", names.local_rank, names.world)));
    }
    // MPI needs no meeting point, and a program without it must say so when asked for it.
    let mpi =
        transport.trim() == "mpi" || (transport.trim() != "tcp" && cfg!(feature = "mpi") && names.launcher == OPEN_MPI);
    let meeting = if mpi { Meeting::Mpi } else { Meeting::Tcp(rendezvous(&variable, names)?) };
    let (job, secret) = (names.job(&variable), SecretSource::of(&variable)?);
    Ok(Some(Launch { rank, world, local_rank, meeting, nccl, launcher: names.launcher, job, secret }))
}

/// `VILA_RENDEZVOUS` (a file that all ranks see) before addresses. The port is our own: torchrun's agents already listen at
/// `MASTER_PORT`.
fn rendezvous(variable: &impl Fn(&str) -> Option<String>, names: &Names) -> Result<Rendezvous> {
    let local = names.one_machine(variable).then(|| String::from("127.0.0.1"));
    let listen = variable("VILA_LISTEN");
    if let Some(path) = variable("VILA_RENDEZVOUS") {
        let listen = listen.or(local).or_else(|| variable("MASTER_ADDR"));
        return Ok(Rendezvous::File { path: PathBuf::from(path), listen });
    }
    let port_of = |name: &str, plus: u16| -> Result<Option<u16>> {
        let Some(value) = variable(name) else { return Ok(None) };
        let port = value.trim().parse::<u16>().ok().and_then(|port| port.checked_add(plus)).filter(|&port| port > 0);
        port.map(Some).ok_or_else(|| Error::Ranks(format!("{name} is `{}`, not a port below 65535", plain(&value))))
    };
    let job_port = |job: &str| (JOB_PORTS + u64::from(crc32c::crc32c(job.as_bytes())) % 40_000) as u16;
    let job = ["SLURM_JOB_ID", "PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri", "OMPI_MCA_ess_base_jobid"];
    let port = match port_of("VILA_PORT", 0)? {
        Some(port) => Some(port),
        None => {
            port_of("MASTER_PORT", 1)?.or_else(|| job.iter().find_map(|name| variable(name)).map(|job| job_port(&job)))
        }
    };
    let host = local.or_else(|| variable("MASTER_ADDR")).or_else(|| variable("SLURM_LAUNCH_NODE_IPADDR"));
    match (host, port) {
        (Some(host), Some(port)) => Ok(Rendezvous::Address { host, port, listen }),
        (host, _) => Err(Error::Ranks(format!(
            "{} started {} processes, but {} is not set: set MASTER_ADDR and MASTER_PORT (rank 0's machine and a free port; \
             the port after it is used), or VILA_RENDEZVOUS (a file that all ranks see)",
            names.launcher,
            variable(names.world).unwrap_or_default(),
            if host.is_none() { "MASTER_ADDR" } else { "MASTER_PORT" }
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[(&str, &str)]) -> Result<Option<Launch>> {
        launch(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    fn found(set: &[(&str, &str)]) -> Launch {
        with(set).expect("readable").expect("many processes")
    }

    #[test]
    fn launchers_are_understood() {
        let torchrun = [("RANK", "5"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "1")];
        let address = [("MASTER_ADDR", "node0"), ("MASTER_PORT", "29500")];
        let launch = found(&[&torchrun[..], &address[..]].concat());
        let meeting = Meeting::Tcp(Rendezvous::Address { host: "node0".into(), port: 29501, listen: None });
        let (nccl, launcher, job) = (TensorsOverNccl::IfPossible, "torchrun", "torchrun".into());
        let secret = SecretSource::Home(None);
        assert_eq!(launch, Launch { rank: 5, world: 16, local_rank: 1, meeting, nccl, launcher, job, secret });
        let file = found(&[&torchrun[..], &[("VILA_RENDEZVOUS", "/shared/meet")]].concat());
        assert_eq!(file.meeting, Meeting::Tcp(Rendezvous::File { path: "/shared/meet".into(), listen: None }));
        let local = found(&[&torchrun[..], &address[..], &[("LOCAL_WORLD_SIZE", "16")]].concat());
        assert_eq!(local.meeting.to_string(), "meeting over TCP at 127.0.0.1:29501");

        let mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
        let launch = found(&[&mpi[..], &[("PMIX_NAMESPACE", "1234567"), ("VILA_TRANSPORT", "tcp")]].concat());
        let Meeting::Tcp(Rendezvous::Address { host, port, .. }) = launch.meeting else { panic!("{launch:?}") };
        assert!(host == "127.0.0.1" && port >= 20_000, "{host}:{port}");

        let slurm = [("SLURM_PROCID", "3"), ("SLURM_NTASKS", "4"), ("SLURM_LOCALID", "0"), ("SLURM_JOB_ID", "77")];
        let launch = found(&[&slurm[..], &[("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1")]].concat());
        assert_eq!((launch.rank, launch.local_rank, launch.launcher), (3, 0, "SLURM"));
    }

    #[test]
    fn the_transport_can_be_chosen() {
        let mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("PMIX_NAMESPACE", "1")];
        let local = ("OMPI_COMM_WORLD_LOCAL_SIZE", "2");
        let chosen = |transport| found(&[&mpi[..], &[local, ("VILA_TRANSPORT", transport)]].concat());
        assert_eq!(chosen("mpi").meeting, Meeting::Mpi);
        assert!(matches!(chosen("tcp").meeting, Meeting::Tcp(_)));
        assert_eq!(chosen("").meeting == Meeting::Mpi, cfg!(feature = "mpi"));
        let nccl = ["mpi", "tcp", "", "nccl"].map(|transport| chosen(transport).nccl);
        let (never, possible) = (TensorsOverNccl::Never, TensorsOverNccl::IfPossible);
        assert_eq!(nccl, [never, never, possible, TensorsOverNccl::Always]);
        // MPI needs no address.
        assert_eq!(found(&[&mpi[..2], &[("VILA_TRANSPORT", "mpi")]].concat()).meeting, Meeting::Mpi);
        let alone = found(&[("VILA_TRANSPORT", "nccl")]);
        assert_eq!((alone.world, alone.meeting), (1, Meeting::Alone));
        assert!(with(&[("VILA_TRANSPORT", "pigeon")]).expect_err("unknown").to_string().contains("`pigeon`"));
    }

    #[test]
    fn one_process_is_alone_and_mistakes_are_named() {
        assert_eq!(with(&[]).expect("fine"), None);
        assert_eq!(with(&[("RANK", "0"), ("WORLD_SIZE", "1")]).expect("fine"), None);
        let message = |set: &[(&str, &str)]| with(set).expect_err("mistake").to_string();
        assert!(message(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("RANK is `x`"));
        assert!(message(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("WORLD_SIZE is 2"));
        assert!(message(&[("RANK", "0"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR"));
        let port = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "65535")];
        assert!(message(&port).contains("MASTER_PORT is `65535`"));
    }

    #[test]
    fn numbers_beyond_all_bounds_are_refused_at_once() {
        let message = |set: &[(&str, &str)]| with(set).expect_err("mistake").to_string();
        for world in ["100000000000", "4097", "0"] {
            let said = message(&[("RANK", "0"), ("WORLD_SIZE", world)]);
            assert!(said.contains(&format!("WORLD_SIZE is {world}")) && said.contains("4096"), "{said}");
        }
        assert!(message(&[("RANK", "0"), ("WORLD_SIZE", "99999999999999999999999")]).contains("4096"));
        assert!(message(&[("RANK", "-1"), ("WORLD_SIZE", "2")]).contains("RANK is `-1`"));
        let local = [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1000000000000"), ("MASTER_ADDR", "a")];
        assert!(message(&local).contains("LOCAL_RANK is 1000000000000"));
        assert!(!message(&[("RANK", "\u{1b}[2J"), ("WORLD_SIZE", "2")]).contains('\u{1b}'));
    }

    #[test]
    fn slurm_batch_step_is_one_process() {
        let note = |set: &[(&str, &str)]| {
            batch_script_note(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
        };
        let script = [("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0"), ("SLURM_LOCALID", "0")];
        for step in [None, Some("batch"), Some("4294967291"), Some("4294967290")] {
            let step: Vec<_> = step.map(|step| ("SLURM_STEP_ID", step)).into_iter().collect();
            let set = [&script[..], &step].concat();
            assert_eq!(with(&set).expect("fine"), None, "{set:?}");
            let said = note(&set).expect("a note");
            assert!(said.contains("4 tasks") && said.contains("srun vila"), "{said}");
        }
        let task = [&script[..], &[("SLURM_STEP_ID", "0"), ("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1")]].concat();
        assert_eq!((found(&task).world, note(&task)), (4, None));
        assert_eq!(found(&task).job, "SLURM SLURM_JOB_ID=7 SLURM_STEP_ID=0");
        assert_eq!(note(&[]), None);
    }
}
