//! CPU time of this process and of children that have ended, user and system together, from `/proc/self/stat` (proc(5); a hundredth of a second exact).

use std::time::Duration;

use anyhow::{Context, Result};

/// `USER_HZ`: the kernel's interface has a hundred ticks a second on every architecture that Linux still runs on here.
const TICK: Duration = Duration::from_millis(10);

/// CPU time spent so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    /// By this process, all its threads.
    pub(crate) own: Duration,
    /// By its children that were waited for.
    pub(crate) children: Duration,
}

impl Spent {
    /// Until now.
    pub(crate) fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")
            .context("reading CPU time needs Linux's /proc")?;
        parse(&stat).context("/proc/self/stat reads unlike proc(5) says")
    }
}

/// CPU time of a process, all its threads, until now.
pub(crate) fn of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .context("reading CPU time needs Linux's /proc")?;
    Ok(parse(&stat)
        .context("/proc/PID/stat reads unlike proc(5) says")?
        .own)
}

fn parse(stat: &str) -> Option<Spent> {
    // The second field is the program's name in parentheses and may hold anything; the third follows the last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    let (user, system, children_user, children_system) = (ticks()?, ticks()?, ticks()?, ticks()?);
    Some(Spent {
        own: TICK * (user + system),
        children: TICK * (children_user + children_system),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_program_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 30 20 20 0 1 0 9";
        let spent = parse(stat).map(|spent| (spent.own, spent.children));
        assert_eq!(
            spent,
            Some((Duration::from_secs(2), Duration::from_millis(500)))
        );
        assert!(parse("7 (a) S").is_none());
    }
}
