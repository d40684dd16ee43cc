//! Fuzz target: what somebody may write into a minion's configuration.

use super::{check, parse};

const SMALL: &str = "id: web-1\nmaster: 10.0.0.1\n";

const ANCHORS: &str = "id: &a web-1\nmaster: [*a, 127.0.0.1:1]\ngrains: {x: *a}\n";

const LARGE: &str = "\
id: web-1.example.org
master:
  - 10.0.0.1
  - '[fd00::1]:4506'
ca_fingerprint: 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
data_dir: /var/lib/saltern/minion
mine_functions:
  network.ip_addrs: []
  disks:
    mine_function: status.diskusage
    paths: [/, /srv]
mine_interval: 30
grains:
  role: web
  racks: [1, 0o17, 0x1f]
ping_interval_ms: 500
outbox_bytes_max: 1048576
log_level: saltern_minion=debug
";

#[test]
fn fuzz_minion_yaml() {
    saltern_wire::keep!("minion_yaml", "small", SMALL.as_bytes());
    saltern_wire::keep!("minion_yaml", "anchors", ANCHORS.as_bytes());
    saltern_wire::keep!("minion_yaml", "large", LARGE.as_bytes());
    saltern_wire::fuzz!("minion_yaml", |bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let read = parse(text);
        assert_eq!(read, parse(text), "the same text has the same meaning");
        match read {
            Ok(layer) => check(layer, "host-1").is_ok(),
            Err((line, cause)) => {
                assert!(!cause.contains('\n'), "one line: {cause:?}");
                // YAML ends a line at a carriage return, too.
                let breaks = text.bytes().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64;
                assert!(line <= breaks + 2, "line {line} is not in the file");
                false
            }
        }
    });
}
