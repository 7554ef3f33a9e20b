//! What this process uses of the machine, as Linux tells it.

use std::fs;
use std::time::Duration;

use crate::Result;

/// Resident memory of this process, in bytes.
///
/// # Errors
/// Where there is no `/proc/self/status`.
pub fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim_end().parse()?;
    Ok(kilobytes * 1024)
}

/// Processor time of all threads of this process so far, those that ended included; in steps of 10 ms.
///
/// # Errors
/// Where there is no `/proc/self/stat`.
pub fn cpu() -> Result<Duration> {
    /// What Linux shows to programs, whatever the kernel's own rate is.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name of the program may hold blanks; after it come the fields from the third on.
    let (_, fields) = stat.rsplit_once(')').ok_or("no program name")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().ok_or("too few fields")?.parse()?) };
    let used = ticks()? + ticks()?;
    Ok(Duration::from_millis(used * 1000 / TICKS_PER_SECOND))
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
}
