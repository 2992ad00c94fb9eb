//! Deliveries to, through and by way of other people's programs: nginx, tinyproxy, microsocks, dnsmasq. Each test starts its own,
//! with its own configuration in its own directory, and ends it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, SerialNumber};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    Behaviour, Daemon, Receiver, SOON, Site, eventually, free_address, has_program, must,
};

/// Retries soon, and lets go of HTTP connections soon.
const QUICK: &str = "retry = { interval = \"50ms\", max_interval = \"50ms\", jitter = \"none\" }\n";

/// A program that runs as long as this.
pub(crate) struct Program(Child);

impl Program {
    /// Starts it and waits until it listens.
    fn start(address: SocketAddr, command: &mut Command) -> Program {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut program = Program(command.spawn().expect("start a program"));
        eventually("it listens", SOON, || {
            let ended = program.0.try_wait().expect("wait");
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            TcpStream::connect(address).is_ok()
        });
        program
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("send a signal");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // TERM, so that nginx ends its worker.
        self.signal(Signal::TERM);
        drop(self.0.wait());
    }
}

/// An authority, a server's certificate by it, and certificates for us.
struct Certificates {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    /// Writes `ca.pem`, `server.pem` and `server.key`.
    fn new(directory: &Path) -> Certificates {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
        let made = Certificates { ca };
        let (certificate, key) = made.issue("localhost", 1);
        fs::write(directory.join("server.pem"), certificate).unwrap();
        fs::write(directory.join("server.key"), key).unwrap();
        made
    }

    /// A certificate with this serial number, and its key.
    fn issue(&self, name: &str, serial: u64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        leaf.serial_number = Some(SerialNumber::from(serial));
        leaf.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let leaf = leaf.signed_by(&key, &self.ca).unwrap();
        (leaf.pem(), key.serialize_pem())
    }
}

/// Replaces a file as whoever rotates certificates does.
fn replace(directory: &Path, name: &str, text: &str) {
    let temporary = directory.join(format!(".{name}.tmp"));
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, directory.join(name)).unwrap();
}

/// nginx with this `server` block. Each request becomes a line of `access.log`: protocol, our certificate's serial number, the
/// address it came to, webhook-id, length of the body.
fn nginx(directory: &Path, address: SocketAddr, server: &str) -> Program {
    let text = format!(
        "user root; worker_processes 1; pid nginx.pid; error_log stderr;\n\
        events {{ worker_connections 64; }}\n\
        http {{\n\
          log_format one '$server_protocol $ssl_client_serial $server_addr $http_webhook_id $content_length $host';\n\
          access_log access.log one;\n\
          client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
          uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
          server {{ ssl_certificate server.pem; ssl_certificate_key server.key;\n{server}\n\
            location / {{ client_max_body_size 10m; return 204; }} }}\n\
        }}\n"
    );
    fs::write(directory.join("nginx.conf"), text).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).args([
        "-c",
        "nginx.conf",
        "-e",
        "stderr",
        "-g",
        "daemon off;",
    ]);
    Program::start(address, &mut command)
}

/// The lines of `access.log`, in words.
fn log(directory: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(directory.join("access.log")).unwrap_or_default();
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    text.lines().map(words).collect()
}

/// An nginx with TLS for this site, its URL, and what a connection to it says.
pub(crate) fn tls_target(site: &Site) -> (Program, String, &'static str) {
    Certificates::new(site.path());
    let address = free_address();
    let program = nginx(site.path(), address, &format!("listen {address} ssl http2;"));
    let url = format!("https://localhost:{}/hook", address.port());
    (program, url, "[connection.tls]\nca_file = \"../ca.pem\"\n")
}

/// Posts one event and waits until nginx has it; its line.
#[track_caller]
fn arrive(site: &Site) -> Vec<String> {
    let answer = site.producer().post("/v1/events", &[], b"{\"a\":1}").unwrap();
    assert_eq!(answer.status, 202, "{}", answer.json);
    let mut found = None;
    eventually("nginx has it", SOON, || {
        found = log(site.path()).into_iter().find(|line| line[3] == answer.id());
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn nginx_receives_over_http2_and_over_http1() {
    if !has_program("nginx", "-v") {
        return;
    }
    let site = Site::new();
    let (_nginx, url, tls) = tls_target(&site);
    site.connection("crm", &url, &format!("host_header = \"crm.internal\"\n{tls}"));
    let mut daemon = Daemon::start(&site);
    let mut producer = site.producer();
    let big = "x".repeat(300_000);
    for number in 0..200 {
        let body = if number % 50 == 0 { big.as_str() } else { "{}" };
        assert_eq!(producer.post("/v1/events", &[], body.as_bytes()).unwrap().status, 202);
    }
    eventually("all arrive", SOON, || log(site.path()).len() >= 200);
    let lines = log(site.path());
    assert!(
        lines.iter().all(|line| line[0] == "HTTP/2.0" && line[5] == "crm.internal"),
        "{lines:?}"
    );
    assert_eq!(lines.iter().filter(|line| line[4] == "300000").count(), 4);
    let metrics = daemon.drained(&["crm"]);
    let of = [("connection", "crm")];
    assert_eq!(metrics.sum("posthaste_connections_opened_total", &of), 1.0);
    assert_eq!(metrics.get("posthaste_connection_tls_verify", &of), Some(1.0));
    let expiry = metrics.get("posthaste_peer_certificate_expiry_timestamp_seconds", &of);
    assert_eq!(expiry, Some(4_102_444_800.0), "2100-01-01");

    site.connection("crm", &url, &format!("http2 = {{ enabled = false }}\n{tls}"));
    eventually("the reload", SOON, || arrive(&site)[0] == "HTTP/1.1");
    daemon.stop();
}

/// Spec 3: a pair that does not match is refused and the old one stays; a good one is used without a restart.
#[test]
fn client_certificates_rotate_without_a_restart() {
    if !has_program("nginx", "-v") {
        return;
    }
    let site = Site::new();
    let certificates = Certificates::new(site.path());
    let address = free_address();
    let server =
        format!("listen {address} ssl; ssl_client_certificate ca.pem; ssl_verify_client on;");
    let _nginx = nginx(site.path(), address, &server);
    let (certificate, key) = certificates.issue("us", 0x11);
    replace(site.path(), "client.pem", &certificate);
    replace(site.path(), "client.key", &key);
    let url = format!("https://localhost:{}/hook", address.port());
    let tls = "[connection.tls]\nca_file = \"../ca.pem\"\nclient_cert = \"../client.pem\"\nclient_key = \"../client.key\"\n";
    site.connection("crm", &url, &format!("{QUICK}{tls}"));
    let mut daemon = Daemon::start(&site);
    assert_eq!(arrive(&site)[1], "11");

    let (certificate, key) = certificates.issue("us", 0x22);
    let successful = || daemon.metrics().sum("posthaste_config_last_reload_successful", &[]);
    replace(site.path(), "client.key", &key);
    eventually("the pair is refused", SOON, || successful() == 0.0);
    assert!(daemon.stderr().contains("does not belong to the certificate"), "{}", daemon.stderr());
    assert_eq!(arrive(&site)[1], "11", "the old pair stays");
    replace(site.path(), "client.pem", "not a certificate");
    let refused =
        || daemon.metrics().sum("posthaste_config_reloads_total", &[("result", "refused")]);
    eventually("nonsense is refused", SOON, || refused() >= 2.0);
    assert_eq!(arrive(&site)[1], "11");
    replace(site.path(), "client.pem", &certificate);
    eventually("the new pair is taken", SOON, || successful() == 1.0);
    assert_eq!(arrive(&site)[1], "22");

    // Without one, nginx answers 400.
    site.connection("crm", &url, &format!("{QUICK}[connection.tls]\nca_file = \"../ca.pem\"\n"));
    eventually("a refusal", SOON, || {
        site.producer().post("/v1/events", &[], b"x").unwrap();
        daemon.metrics().sum("posthaste_dead_letters", &[]) > 0.0
    });
    daemon.stop();
}

/// An event goes through a proxy that wants credentials, to a target with TLS and to one without.
#[test]
fn proxies_pass_deliveries_on() {
    for program in [("nginx", "-v"), ("tinyproxy", "-v")] {
        if !has_program(program.0, program.1) {
            return;
        }
    }
    // It has no argument that it succeeds with.
    if Command::new("microsocks").arg("-h").stderr(Stdio::null()).status().is_err() {
        must("microsocks is missing, see .ci/setup");
        return;
    }
    let site = Site::new();
    Certificates::new(site.path());
    let (secure, http, socks) = (free_address(), free_address(), free_address());
    let plain = Receiver::start(Behaviour::ok());
    let _nginx = nginx(site.path(), secure, &format!("listen {secure} ssl http2;"));
    fs::write(
        site.path().join("tinyproxy.conf"),
        format!(
            "Port {}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nBasicAuth posthaste hunter2\nLogFile \"{}\"\n",
            http.port(),
            site.path().join("tinyproxy.log").display()
        ),
    )
    .unwrap();
    let mut command = Command::new("tinyproxy");
    command.arg("-d").arg("-c").arg(site.path().join("tinyproxy.conf"));
    let _tinyproxy = Program::start(http, &mut command);
    let mut command = Command::new("microsocks");
    command.args(["-i", "127.0.0.1", "-u", "posthaste", "-P", "hunter2", "-p"]);
    let _microsocks =
        Program::start(socks, command.arg(socks.port().to_string()).stderr(Stdio::null()));
    let secure_url = format!("https://localhost:{}/hook", secure.port());
    let proxy = |scheme: &str, address: SocketAddr, password: &str| {
        format!(
            "{QUICK}tls = {{ ca_file = \"../ca.pem\" }}\n[connection.proxy]\nurl = \"{scheme}://{address}\"\nusername = \"posthaste\"\npassword = {{ env = \"{password}\" }}\n"
        )
    };
    for (scheme, address) in [("http", http), ("socks5", socks)] {
        let through = proxy(scheme, address, "RIGHT");
        site.connection(&format!("{scheme}-plain"), &plain.url(scheme), &through);
        site.connection(&format!("{scheme}-tls"), &secure_url, &through);
        let refused = proxy(scheme, address, "WRONG");
        site.connection(&format!("{scheme}-wrong"), &plain.url("never"), &refused);
    }
    let mut daemon = Daemon::start_with(&site, |command| {
        command.env("RIGHT", "hunter2").env("WRONG", "hunter3");
        // Spec 3: proxies of the environment are never looked at.
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:1");
        }
    });
    assert_eq!(site.producer().post("/v1/events", &[], b"{}").unwrap().status, 202);
    eventually("both get it without TLS", SOON, || {
        plain.delivered("http") == 1 && plain.delivered("socks5") == 1
    });
    eventually("both get it over TLS", SOON, || log(site.path()).len() == 2);
    assert!(log(site.path()).iter().all(|line| line[0] == "HTTP/2.0"));
    for scheme in ["http", "socks5"] {
        let name = format!("{scheme}-wrong");
        let of = [("connection", name.as_str()), ("code", "proxy_failed")];
        eventually("the proxy is blamed", SOON, || {
            daemon.metrics().sum("posthaste_delivery_attempts_total", &of) >= 1.0
        });
        let attempts = daemon.cli_json(&["attempts", &name, "--json"]);
        assert!(attempts.to_string().contains("proxy_failed"), "{attempts}");
    }
    assert_eq!(plain.delivered("never"), 0);
    assert!(!daemon.stderr().contains("hunter"), "{}", daemon.stderr());
    daemon.stop();
}

/// Spec 3, DNS: a TTL is kept, an address that changes is followed, and a server that is gone stops nobody.
#[test]
fn names_are_followed_when_their_addresses_change() {
    for program in [("nginx", "-v"), ("dnsmasq", "--version")] {
        if !has_program(program.0, program.1) {
            return;
        }
    }
    let dns = free_address();
    let site = Site::with("", &format!("[network]\nresolvers = [\"{dns}\"]\n"));
    Certificates::new(site.path());
    let port = free_address().port();
    let one = SocketAddr::from(([127, 0, 0, 1], port));
    let _nginx = nginx(
        site.path(),
        one,
        &format!("listen 127.0.0.1:{port}; listen 127.0.0.2:{port}; keepalive_timeout 0;"),
    );
    let hosts = site.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 crm.posthaste.example\n").unwrap();
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--bind-interfaces", "--no-resolv", "--no-hosts"]);
    command.args([
        "--conf-file=/dev/null",
        "--user=root",
        "--local-ttl=1",
        "--log-facility=/dev/null",
    ]);
    command.arg(format!("--pid-file={}", site.path().join("dnsmasq.pid").display()));
    command.arg(format!("--listen-address={}", dns.ip())).arg(format!("--port={}", dns.port()));
    command.arg(format!("--addn-hosts={}", hosts.display()));
    let dnsmasq = Program::start(dns, &mut command);
    let pool = "pool = { idle_timeout = \"1s\", max_lifetime = \"1s\" }\n";
    let url = format!("http://crm.posthaste.example:{port}/hook");
    site.connection("crm", &url, &format!("{QUICK}{pool}"));
    site.connection("nobody", &format!("http://nobody.posthaste.example:{port}/"), QUICK);
    let mut daemon = Daemon::start(&site);
    assert_eq!(arrive(&site)[2], "127.0.0.1");
    fs::write(&hosts, "127.0.0.2 crm.posthaste.example\n").unwrap();
    dnsmasq.signal(Signal::HUP);
    eventually("the new address", SOON, || arrive(&site)[2] == "127.0.0.2");
    let of = [("connection", "nobody"), ("code", "dns_failed")];
    eventually("the other name is not known", SOON, || {
        daemon.metrics().sum("posthaste_delivery_attempts_total", &of) > 0.0
    });
    drop(dnsmasq);
    // Each event needs a lookup: nginx closes each connection, and the TTL is a second.
    let failed = || daemon.stderr().contains("its last answer goes on being used");
    eventually("the last answer serves", SOON, || {
        assert_eq!(arrive(&site)[2], "127.0.0.2");
        failed()
    });
    assert_eq!(arrive(&site)[2], "127.0.0.2");
    let of = [("connection", "crm"), ("code", "dns_failed")];
    assert_eq!(daemon.metrics().sum("posthaste_delivery_attempts_total", &of), 0.0);
    daemon.stop();
}
