//! Processes of a bench: what is measured, its peers and its clients each run in one of their own, so that the CPU and memory of one is not another's.
//!
//! A process is this program with the hidden subcommand `child`. It takes a command a line on its standard input and answers each with a line.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use crate::cpu;

/// A process.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program as `child` with these arguments and takes its first line.
    pub(crate) fn start(arguments: &[&str]) -> Result<(Self, String)> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("child")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a process of the bench could not be started")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a process of the bench has no pipes");
        };
        let mut process = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        let first = process.line()?;
        Ok((process, first))
    }

    /// Says a line, takes the answer.
    pub(crate) fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.input, "{command}")?;
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("a process of the bench ended: what it said is above");
        }
        Ok(line.trim_end().to_owned())
    }

    /// CPU time spent so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu::of(self.child.id())
    }

    /// Resident memory, bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes =
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
        Ok(1_024 * kilobytes.context("/proc/PID/status has no VmRSS")?)
    }

    /// Waits until it has no work left, at most five seconds.
    pub(crate) fn settle(&self) -> Result<()> {
        let began = Instant::now();
        let (mut spent, mut since) = (self.cpu()?, Instant::now());
        while since.elapsed() < Duration::from_millis(300)
            && began.elapsed() < Duration::from_secs(5)
        {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.cpu()?;
            if now != spent {
                (spent, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the program again with room for so many open files, if the shell gave less.
pub(crate) fn ensure_files(needed: usize) -> Result<()> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers =
        line.unwrap_or_default()
            .split_ascii_whitespace()
            .map(|number| match number {
                "unlimited" => usize::MAX,
                number => number.parse().unwrap_or_default(),
            });
    let (soft, hard) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    if soft >= needed {
        return Ok(());
    }
    if hard < needed {
        bail!(
            "this needs {needed} open files a process and the limit is {hard}: raise it, such as by `sudo prlimit --pid $$ --nofile={needed}:{needed}`, or take a smaller --count"
        );
    }
    // The shell raises the limit, so that no unsafe call has to.
    let error = std::os::unix::process::CommandExt::exec(
        Command::new("sh")
            .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &needed.to_string()])
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1)),
    );
    Err(error).context("the open-file limit could not be raised")
}

/// What is said of the machine above a table: its cores and how busy it was.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_ascii_whitespace().next().unwrap_or("?");
    format!("{cores} cores, load average {load}")
}

/// Unix time, nanoseconds: what two processes of one machine compare.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
