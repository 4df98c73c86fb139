//! The binary from outside: its files, its words and its exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

#[path = "../../tests/ports.rs"]
mod ports;

use ports::free_address;

/// How long a step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A working folder with a configuration on ports of its own.
struct Place {
    folder: tempfile::TempDir,
    web: SocketAddr,
    tls: SocketAddr,
    rtmps: SocketAddr,
}

impl Place {
    /// `more` comes behind the tables that name the ports.
    fn new(more: &str) -> Self {
        let [web, tls, rtmp, rtmps] = [(); 4].map(|()| free_address());
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
            web,
            tls,
            rtmps,
        };
        let text = format!(
            "[web]\nlisten = \"{web}\"\ntls_listen = \"{tls}\"\n[ingest]\nrtmp = \"{rtmp}\"\nrtmps = \"{rtmps}\"\n\
             [webrtc]\nlisten = \"127.0.0.1:0\"\n[transcode]\nencoder = \"libx264\"\n{more}"
        );
        place.configure(&text);
        place
    }

    fn configure(&self, text: &str) {
        fs::write(self.folder.path().join("ghost-live.toml"), text).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ghost-live"));
        command.args(arguments).current_dir(self.folder.path());
        for variable in ["GHOST_LIVE_CONFIG", "GHOST_LIVE_DATA", "GHOST_LIVE_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs to its end: whether it went well, and what it printed.
    fn run(&self, arguments: &[&str]) -> (ExitStatus, String) {
        let output = self.command(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status, text.concat())
    }

    /// The key of `main`.
    fn key(&self) -> String {
        let (status, key) = self.run(&["key", "show", "main"]);
        assert!(status.success(), "{key}");
        key.trim().to_owned()
    }

    fn up(&self) -> Server {
        self.up_with_log("info")
    }

    fn up_with_log(&self, filter: &str) -> Server {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let child = self
            .command(&["up"])
            .env("GHOST_LIVE_LOG", filter)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Server(child);
        until("the panel", || {
            let ended = server.0.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", self.log());
            self.log().contains("Ctrl-C ends it.")
        });
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// A running server, killed where a test fails.
struct Server(Child);

impl Server {
    /// Ends it as a service manager does.
    fn terminate(mut self) -> ExitStatus {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
        let mut ended = None;
        until("the end", || {
            ended = self.0.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    metadata.permissions().mode() & 0o777
}

/// The answer to a GET, head and body.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn check_names_file_line_and_key_of_a_slip_and_the_key_that_was_meant() {
    let place = Place::new("");
    place.configure("# ours\n[broadcast]\nwindow_s = 60\n\n  [ingest]\n  rtmp_ = \"off\"\n");
    let (status, said) = place.run(&["check"]);
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains(
            "ghost-live.toml:6:3: ingest.rtmp_: there is no such key; did you mean `rtmp`?"
        ),
        "{said}"
    );
}

#[test]
fn check_and_up_refuse_a_number_out_of_its_range() {
    let place = Place::new("[broadcast]\nwindow_s = 19\n");
    for command in ["check", "up"] {
        let (status, said) = place.run(&[command]);
        assert_eq!(status.code(), Some(1), "{command}: {said}");
        assert!(
            said.contains("broadcast.window_s is 19: use 20 to 86400"),
            "{command}: {said}"
        );
    }
    assert!(!place.data().exists(), "nothing is made before the refusal");
}

#[test]
fn check_says_which_port_the_certificate_authority_must_reach() {
    let place = Place::new("[tls.acme]\ndomains = [\"live.example.org\"]\n");
    let (status, said) = place.run(&["check"]);
    assert!(status.success(), "{said}");
    let port = place.tls.port();
    assert!(
        said.contains("tls-alpn-01 once port 443/tcp of live.example.org reaches web.tls_listen")
            && said.contains(&format!("forward it to port {port}")),
        "{said}"
    );
    let place =
        Place::new("[tls.acme]\ndomains = [\"live.example.org\"]\nchallenge = \"http-01\"\n");
    let (_, said) = place.run(&["check"]);
    let port = place.web.port();
    assert!(
        said.contains("http-01 once port 80/tcp of live.example.org reaches web.listen")
            && said.contains(&format!("forward it to port {port}")),
        "{said}"
    );
}

#[test]
fn check_warns_of_a_webhook_that_somebody_else_could_pass_for() {
    let webhook = |url: &str, secret: &str| {
        let place = Place::new("");
        let file = place.folder.path().join("hook-secret");
        fs::write(&file, secret).unwrap();
        let text = format!(
            "[[webhooks]]\nname = \"members\"\nurl = {url:?}\non = [\"publish\"]\nsecret_file = {file:?}\n"
        );
        let path = place.folder.path().join("ghost-live.toml");
        let ports = fs::read_to_string(&path).unwrap();
        fs::write(&path, ports + &text).unwrap();
        let (status, said) = place.run(&["check"]);
        assert!(secret.is_empty() || !said.contains(secret), "{said}");
        (status.success(), said)
    };
    let long = "0123456789abcdef0123456789abcdef";
    let (good, said) = webhook("https://hooks.example.org/x", long);
    assert!(good && said.contains("webhook members"), "{said}");
    for (url, secret, says) in [
        (
            "https://hooks.example.org/x",
            "short-one",
            "less than 32 characters",
        ),
        ("http://hooks.example.org/x", long, "use https://"),
        ("http://10.0.0.1/x", long, "10.0.0.1 is a private network"),
        ("https://hooks.example.org/x", "", "no secret"),
    ] {
        let (good, said) = webhook(url, secret);
        assert!(
            !good && said.contains("webhooks.members") && said.contains(says),
            "{said}"
        );
    }
}

#[test]
fn webhooks_lists_nothing_where_nothing_is_and_says_so_when_it_shall_be_resent() {
    let place = Place::new("");
    let (status, said) = place.run(&["webhooks", "list"]);
    assert!(!status.success() && said.contains("start once"), "{said}");
    drop(place.up());
    let (status, said) = place.run(&["webhooks", "list"]);
    assert!(status.success() && said.is_empty(), "{said}");
    let (status, said) = place.run(&["webhooks", "resend", "--all"]);
    assert!(
        !status.success() && said.contains("no such event"),
        "{said}"
    );
    let (status, said) = place.run(&["webhooks", "resend"]);
    assert!(!status.success() && said.contains("--all"), "{said}");
}

#[test]
fn the_first_start_makes_private_files_and_the_second_keeps_them() {
    let place = Place::new("");
    let server = place.up();
    let key = place.key();
    assert!(key.starts_with("main_"), "{key}");
    assert!(place.log().contains(&key), "the panel shows the key");
    let data = place.data();
    assert_eq!(mode(&data), 0o700);
    for file in [
        "edge/directory.sqlite",
        "edge/directory.sqlite-wal",
        "edge/directory.sqlite-shm",
        "edge/seal-secret",
        "self-signed.key",
    ] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    let certificate = fs::read(data.join("self-signed.crt")).unwrap();
    assert!(get(place.web, "/.well-known/acme-challenge/x").starts_with("HTTP/1.1 404"));
    assert_eq!(server.terminate().code(), Some(0), "{}", place.log());

    let server = place.up();
    assert_eq!(place.key(), key);
    assert!(place.log().contains(&key));
    assert_eq!(fs::read(data.join("self-signed.crt")).unwrap(), certificate);
    assert_eq!(server.terminate().code(), Some(0), "{}", place.log());
}

#[test]
fn a_rotated_key_is_new_and_stays() {
    let place = Place::new("");
    assert_eq!(place.up().terminate().code(), Some(0), "{}", place.log());
    let key = place.key();
    let (status, rotated) = place.run(&["key", "rotate", "main"]);
    assert!(status.success(), "{rotated}");
    let rotated = rotated.trim();
    assert!(rotated.starts_with("main_") && rotated != key, "{rotated}");
    assert_eq!(place.key(), rotated);
    assert_eq!(mode(&place.data().join("edge/directory.sqlite")), 0o600);
    let server = place.up();
    assert_eq!(place.key(), rotated);
    assert_eq!(server.terminate().code(), Some(0), "{}", place.log());

    let (status, said) = place.run(&["key", "show", "nobody"]);
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("nobody"), "{said}");
}

#[test]
fn a_lost_seal_secret_leaves_a_server_that_starts_and_says_how_to_get_a_new_key() {
    let place = Place::new("");
    assert_eq!(place.up().terminate().code(), Some(0), "{}", place.log());
    let key = place.key();
    fs::remove_file(place.data().join("edge/seal-secret")).unwrap();
    let server = place.up();
    let log = place.log();
    assert!(
        !log.contains(&key) && !log.contains("/studio/main#"),
        "{log}"
    );
    assert!(log.contains("ghost-live key rotate main"), "{log}");
    let (status, said) = place.run(&["key", "show", "main"]);
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("ghost-live key rotate main"), "{said}");

    let (status, said) = place.run(&["key", "rotate", "main"]);
    assert!(status.success(), "{said}");
    assert!(
        said.contains("the studio link") && said.contains("new as well"),
        "{said}"
    );
    let rotated = place.key();
    assert!(rotated.starts_with("main_") && rotated != key, "{rotated}");
    assert_eq!(server.terminate().code(), Some(0), "{}", place.log());
    let server = place.up();
    let log = place.log();
    assert!(
        log.contains(&rotated) && log.contains("/studio/main#"),
        "{log}"
    );
    assert_eq!(server.terminate().code(), Some(0), "{}", place.log());
    let (status, said) = place.run(&["key", "rotate", "main"]);
    assert!(status.success() && !said.contains("studio link"), "{said}");
}

/// The status of a GET.
fn status(web: SocketAddr, path: &str) -> u16 {
    let mut tcp = TcpStream::connect(web).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {web}\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn streams_and_tokens_are_changed_beside_the_running_server() {
    let place = Place::new("");
    let server = place.up();
    let said = |arguments: &[&str]| {
        let (status, said) = place.run(arguments);
        assert!(status.success(), "{arguments:?}: {said}");
        said
    };
    let key = said(&[
        "stream",
        "create",
        "club",
        "--visibility",
        "token",
        "--title",
        "The club",
    ]);
    assert!(key.starts_with("club_"), "{key}");
    assert_eq!(
        said(&["stream", "list"]),
        "club\ttoken\tThe club\nmain\tpublic\t\n"
    );
    let (twice, why) = place.run(&["stream", "create", "club"]);
    assert!(!twice.success() && why.contains("club"), "{why}");

    let playlist = "/live/club/index.m3u8";
    until("the stream is known", || status(place.web, playlist) == 401);
    let mint = [
        "token",
        "mint",
        "--stream",
        "club",
        "--act",
        "watch",
        "--subject",
        "anna",
    ];
    let with_token = format!("{playlist}?token={}", said(&mint).trim());
    // Let in: nothing is live.
    until("the token is good", || {
        status(place.web, &with_token) == 404
    });
    said(&["token", "revoke", "--subject", "anna", "--stream", "club"]);
    until("it was taken back", || {
        status(place.web, &with_token) == 403
    });

    said(&[
        "stream",
        "set",
        "club",
        "--visibility",
        "public",
        "--title",
        "",
    ]);
    until("it is public", || status(place.web, playlist) == 404);
    assert_eq!(
        said(&["stream", "list"]),
        "club\tpublic\t\nmain\tpublic\t\n"
    );
    said(&["stream", "delete", "club"]);
    assert_eq!(said(&["stream", "list"]), "main\tpublic\t\n");
    until("it is gone", || {
        status(place.web, "/api/streams/club") == 404
    });
    assert!(!place.run(&["stream", "delete", "club"]).0.success());
    assert!(!place.run(&["token", "revoke"]).0.success());
    assert_eq!(server.terminate().code(), Some(0), "{}", place.log());
}

/// Runs `up` beside Debian's `pebble`, the RFC 8555 server that Let's Encrypt tests clients with, until a certificate is there.
fn issued_by(challenge: &str) {
    let [directory, management] = [free_address(), free_address()];
    let authority = Place::new("");
    let place = Place::new("");
    // Its own certificate: the self-signed one of another data folder.
    assert_eq!(
        authority.up().terminate().code(),
        Some(0),
        "{}",
        authority.log()
    );
    let [certificate, key] =
        ["self-signed.crt", "self-signed.key"].map(|name| authority.data().join(name));
    let text = fs::read_to_string(place.folder.path().join("ghost-live.toml")).unwrap();
    place.configure(&format!(
        "{text}[tls.acme]\ndomains = [\"localhost\"]\ndirectory = \"https://localhost:{}/dir\"\nroot = {certificate:?}\n\
         challenge = \"{challenge}\"\n",
        directory.port()
    ));
    let settings = format!(
        r#"{{"pebble": {{"listenAddress": "{directory}", "managementListenAddress": "{management}", "certificate": {certificate:?},
            "privateKey": {key:?}, "httpPort": {}, "tlsPort": {}, "ocspResponderURL": "", "externalAccountBindingRequired": false}}}}"#,
        place.web.port(),
        place.tls.port(),
    );
    let file = authority.folder.path().join("pebble.json");
    fs::write(&file, settings).unwrap();
    let pebble = Command::new("pebble")
        .arg("-config")
        .arg(&file)
        .env("PEBBLE_VA_NOSLEEP", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("pebble is needed for this test: {error}"));
    let _pebble = Server(pebble);
    until("pebble", || TcpStream::connect(directory).is_ok());

    let server = place.up();
    let offer = format!("rtmps://localhost:{}/live", place.rtmps.port());
    // The log's own lines stand around it.
    let panel = |log: String| {
        let lines = log.lines().filter(|line| !line.contains("INFO"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let first = panel(place.log());
    assert!(first.contains("once the certificate is trusted"), "{first}");
    assert!(!first.contains(&offer), "{first}");
    let issued = place.data().join("acme-localhost.crt");
    until("the certificate", || {
        let log = place.log();
        assert!(!log.contains("no new certificate"), "{log}");
        issued.exists() && log.contains("certificate issued") && log.contains(&offer)
    });
    assert_eq!(mode(&place.data().join("acme-localhost.key")), 0o600);
    assert_eq!(server.terminate().code(), Some(0), "{}", place.log());
    let again = place.up();
    let second = panel(place.log());
    assert!(second.contains(&offer), "{second}");
    assert_eq!(again.terminate().code(), Some(0), "{}", place.log());
}

#[test]
fn a_certificate_is_issued_over_plain_http() {
    issued_by("http-01");
}

#[test]
fn a_certificate_is_issued_within_tls() {
    issued_by("tls-alpn-01");
}

/// The answer to a request as it is written.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn no_log_line_has_a_secret_at_any_level() {
    const MARK: &str = "eyJoZXJlLWlzLWEtc2VjcmV0";
    let place = Place::new("");
    let server = place.up_with_log("trace");
    let key = place.key();
    let minted = place
        .run(&["token", "mint", "--stream", "main", "--act", "manage"])
        .1;
    let token = minted.lines().find(|line| line.starts_with("eyJ")).unwrap();
    let token = token.trim();
    let broadcast = "a".repeat(26);
    for head in [
        format!("GET /live/main/index.m3u8?token={MARK} HTTP/1.1"),
        format!("GET /live/main/index.m3u8?token={token} HTTP/1.1"),
        format!("GET /live/main/{broadcast}/{MARK}/v-source/index.m3u8 HTTP/1.1"),
        format!("GET /watch/main?key={MARK} HTTP/1.1"),
        format!("GET /internal/link/{broadcast}?token={MARK} HTTP/1.1"),
        format!("GET /internal/media/main?key={MARK} HTTP/1.1"),
        format!("GET /api/studio/main HTTP/1.1\r\nauthorization: Bearer {MARK}"),
        format!("GET /api/studio/main HTTP/1.1\r\nauthorization: Bearer {token}"),
        format!("GET /api/studio/main HTTP/1.1\r\nauthorization: Basic {MARK}"),
        format!("POST /api/tokens HTTP/1.1\r\ncontent-length: 0\r\nauthorization: Bearer {token}"),
        format!("POST /internal/admit HTTP/1.1\r\ncontent-length: 0\r\nauthorization: {MARK}"),
        format!("BROKEN {MARK}"),
    ] {
        let request = format!("{head}\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = ask(place.web, &request);
        assert!(answer.starts_with("HTTP/1.1 "), "{head}: {answer}");
        assert!(
            !answer.contains(MARK) && !answer.contains(token),
            "{head}: {answer}"
        );
    }
    assert!(server.terminate().success());
    let log = place.log();
    let signature = token.rsplit('.').next().unwrap();
    assert!(!log.contains(MARK) && !log.contains(signature), "{log}");
    // The panel shows the key to its owner; a log line has a level.
    let levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
    let mut deep = 0;
    for line in log.lines() {
        let level = levels.iter().position(|level| line.contains(level));
        deep += usize::from(level.is_some_and(|at| at < 2));
        assert!(level.is_none() || !line.contains(&key), "{line}");
    }
    assert!(deep > 0, "nothing was logged that deep: {log}");
}

#[test]
fn check_warns_of_weak_secrets_and_of_files_that_others_can_read() {
    let place = Place::new("[edge]\nlink_secret_file = \"link\"\n");
    let link = place.folder.path().join("link");
    let set = |text: &str, mode: u32| {
        fs::write(&link, text).unwrap();
        fs::set_permissions(&link, fs::Permissions::from_mode(mode)).unwrap();
        place.run(&["check"])
    };
    let (_, said) = set(&"0123456789abcdef".repeat(4), 0o600);
    assert!(!said.contains("risky"), "{said}");
    assert!(
        said.contains("1 files with secrets are their owner's alone"),
        "{said}"
    );
    let (_, said) = set(&"0123456789abcdef".repeat(4), 0o644);
    assert!(
        said.contains("risky  edge.link_secret_file") && said.contains("mode 0644"),
        "{said}"
    );
    let (_, said) = set(&"aab".repeat(20), 0o600);
    assert!(said.contains("too few different characters"), "{said}");
    let (_, said) = set("changeme-changeme-changeme-0123456789", 0o600);
    assert!(said.contains("everybody tries first"), "{said}");
    let (status, said) = set("short", 0o600);
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("less than 32 characters"), "{said}");
}

#[test]
fn check_warns_of_beginnings_of_names_that_cover_more_than_is_meant() {
    let issuer = |tenant: &str| {
        let key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let text = format!(
            "[[access.issuers]]\nissuer = \"team\"\npublic_key = {key:?}\ntenant = {tenant:?}\n[[tenants]]\nprefix = \"\"\n"
        );
        Place::new(&text).run(&["check"]).1
    };
    assert!(!issuer("acme-").contains("risky"));
    let said = issuer("acme");
    assert!(said.contains("risky") && said.contains("acme2"), "{said}");
    let said = issuer("");
    assert!(said.contains("every stream of this server"), "{said}");
}

#[test]
fn token_keys_that_were_copied_here_are_taken_from_everybody_else() {
    let place = Place::new("");
    let (status, said) = place.run(&["token", "keys"]);
    assert!(status.success(), "{said}");
    let keys = place.data().join("edge/token-keys.json");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    let (status, said) = place.run(&["token", "keys"]);
    assert!(status.success() && said.contains("mode 0600 now"), "{said}");
    assert_eq!(mode(&keys), 0o600);
}
