//! Real S3 servers, started by the test and ended with it. Used by the tests of more than one crate.

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

#[path = "../../../tests/ports.rs"]
mod ports;

pub(crate) use ports::free_address;

pub const ACCESS_KEY: &str = "test-access-key";
pub const SECRET_KEY: &str = "test-secret-key";

/// Where `tests/tools.sh` installs.
fn tools() -> PathBuf {
    if let Some(tools) = std::env::var_os("GHOST_LIVE_TOOLS") {
        return tools.into();
    }
    let cache = std::env::var_os("GHOST_LIVE_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
        base.unwrap_or_else(|| home().join(".cache"))
            .join("ghost-live")
    });
    cache.join("tools")
}

fn tool(path: &str) -> PathBuf {
    let tool = tools().join(path);
    assert!(
        tool.exists(),
        "{} is missing: ./test (tests/tools.sh) installs it",
        tool.display()
    );
    tool
}

/// A server process; killed when it is dropped.
pub struct Server {
    child: Child,
}

impl Server {
    fn start(mut command: Command, address: SocketAddr) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
        let mut server = Self { child };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{command:?} does not listen");
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("{command:?} ended with {status}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// s3s-fs over a folder.
    pub fn s3s(folder: &Path, address: SocketAddr) -> Self {
        let mut command = Command::new(tool("bin/s3s-fs"));
        command
            .args(["--host", "127.0.0.1", "--port"])
            .arg(address.port().to_string())
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .arg(folder);
        Self::start(command, address)
    }

    /// moto's mock of AWS.
    pub fn moto(address: SocketAddr) -> Self {
        let mut command = Command::new(tool("venv/bin/moto_server"));
        command
            .args(["-H", "127.0.0.1", "-p"])
            .arg(address.port().to_string());
        Self::start(command, address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
