//! What this process uses of the machine, as Linux tells it.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::Result;

/// Resident memory of this process, in bytes.
///
/// # Errors
/// Where there is no `/proc/self/status`.
pub fn resident() -> Result<u64> {
    status("VmRSS:")
}

/// The most resident memory since [`forget_peak`] or the start of this process, in bytes.
///
/// # Errors
/// Where there is no `/proc/self/status`.
pub fn peak() -> Result<u64> {
    status("VmHWM:")
}

/// Lets [`peak`] begin anew, at what is resident now.
///
/// # Errors
/// Where `/proc/self/clear_refs` cannot be written.
pub fn forget_peak() -> Result<()> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

fn status(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("a line is missing")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim_end().parse()?;
    Ok(kilobytes * 1024)
}

/// Processor time of all threads of this process so far, those that ended included; in steps of 10 ms.
///
/// # Errors
/// Where there is no `/proc/self/stat`.
pub fn cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let own = Stat::parse(&stat).ok_or("too few fields")?;
    Ok(duration(own.own_ticks))
}

/// Processor time so far of the processes that this one started, and of those that they started, as long as they or
/// their parents live: the servers. In steps of 10 ms for each.
///
/// # Errors
/// Where there is no `/proc`.
pub fn cpu_of_servers() -> Result<Duration> {
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may be gone by now.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        stats.extend(Stat::parse(&stat).map(|stat| (id, stat)));
    }
    Ok(duration(
        stats.values().filter(|stat| descends(stat, &stats)).map(|stat| stat.own_ticks + stat.ended_ticks).sum(),
    ))
}

fn descends<'a>(mut stat: &'a Stat, all: &'a HashMap<u32, Stat>) -> bool {
    loop {
        if stat.parent == std::process::id() {
            return true;
        }
        match all.get(&stat.parent) {
            Some(parent) => stat = parent,
            None => return false,
        }
    }
}

/// One line of Linux about one process.
struct Stat {
    parent: u32,
    own_ticks: u64,
    /// Of its children that ended.
    ended_ticks: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The name of the program may hold blanks; after it come the fields from the third on.
        let (_, fields) = line.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own_ticks: ticks(11)? + ticks(12)?,
            ended_ticks: ticks(13)? + ticks(14)?,
        })
    }
}

fn duration(ticks: u64) -> Duration {
    /// What Linux shows to programs, whatever the kernel's own rate is.
    const TICKS_PER_SECOND: u64 = 100;
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// Processor time of the calling thread so far, in nanoseconds' resolution.
///
/// # Errors
/// Where there is no `/proc/thread-self/schedstat`.
pub fn thread_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = stat.split_whitespace().next().ok_or("too few fields")?.parse()?;
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_and_memory_show() {
        let before = (resident().unwrap(), cpu().unwrap(), thread_cpu().unwrap());
        let memory = vec![1_u8; 32 << 20];
        let deadline = Instant::now() + Duration::from_secs(60);
        while cpu().unwrap() - before.1 < Duration::from_millis(50) {
            assert!(Instant::now() < deadline, "no processor time was counted");
            std::hint::black_box(memory.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        }
        assert!(thread_cpu().unwrap() > before.2);
        assert!(resident().unwrap() >= before.0 + (16 << 20));
        drop(memory);
    }

    #[test]
    fn a_peak_outlasts_its_memory_until_it_is_forgotten() {
        drop(std::hint::black_box(vec![1_u8; 64 << 20]));
        let high = peak().unwrap();
        assert!(high >= resident().unwrap());
        forget_peak().unwrap();
        assert!(peak().unwrap() <= high);
    }

    #[test]
    fn the_work_of_a_child_shows_while_it_lives_and_when_its_parent_lives_on() {
        let before = cpu_of_servers().unwrap();
        let script = "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo done; read -r _";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        assert!(cpu_of_servers().unwrap() > before);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
