//! Files and pipes: what cannot be written is counted, and what is there stays readable.

use std::fs::{self, File};

use super::*;

#[test]
fn a_pipe_without_a_reader_is_a_normal_end() {
    let (reader, pipe) = io::pipe().unwrap();
    drop(reader);
    let pipe = File::from(std::os::fd::OwnedFd::from(pipe));

    let mut pcap = Pcap::start(Target::Stdout(pipe), heading()).unwrap();
    pcap.send(&report());
    pcap.close();

    assert!(pcap.is_closed() && !pcap.has_failed());
    assert_eq!(pcap.lost(), 0);
}

#[test]
fn packets_that_a_full_device_does_not_take_are_lost_and_counted() {
    let full = File::options().write(true).open("/dev/full").unwrap();

    let mut pcap = Pcap::start(Target::Stdout(full), heading()).unwrap();
    for _ in 0..3 {
        pcap.send(&report());
    }
    pcap.close();

    assert!(pcap.has_failed() && !pcap.is_closed());
    let count = pcap.count();
    assert_eq!((&*count.name, count.delivered, count.lost), ("pcap", 0, 3));
}

#[test]
fn each_file_is_a_section_of_its_own_with_its_sum_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { size: Some(4000), interval: None, files: Some(3) };
    let files = Files::make(&directory.path().join("a.pcapng"), limits, 0).unwrap();

    let mut pcap = Pcap::start(Target::Files(Box::new(files)), heading()).unwrap();
    for _ in 0..40 {
        pcap.send_last(&report());
    }
    pcap.close();

    assert!(!pcap.has_failed());
    let mut names: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 6, "{names:?}");
    for name in names.iter().filter(|name| name.ends_with(".pcapng")) {
        let bytes = fs::read(directory.path().join(name)).unwrap();
        assert!(bytes.len() <= 4000);
        let blocks = blocks(&bytes);
        assert!(matches!(blocks[0], Block::InterfaceDescription(_)), "{blocks:?}");
        assert!(matches!(blocks.last(), Some(Block::InterfaceStatistics(_))), "{blocks:?}");
        let sum = fs::read_to_string(directory.path().join(format!("{name}.sha256"))).unwrap();
        assert_eq!(sum, format!("{}  {name}\n", sha256(&bytes)));
    }
}

#[test]
fn a_file_that_is_there_is_left_alone_and_so_is_its_sum() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    fs::write(directory.path().join("a.sha256"), "mine").unwrap();

    let refused = Files::make(&path, Limits::default(), 0).unwrap_err();

    assert!(refused.ends_with("a.sha256: is there already; write to a new file"), "{refused}");
    assert!(!path.exists());
    assert_eq!(fs::read(directory.path().join("a.sha256")).unwrap(), b"mine");
}

#[test]
fn what_was_cut_off_is_no_part_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let mut files = Files::make(&path, Limits::default(), 0).unwrap();

    files.append(b"whole").1.unwrap();
    files.keep(b"whole", true).unwrap();
    files.append(b"half").1.unwrap();
    files.keep(b"ha", false).unwrap();
    files.append(b"!").1.unwrap();
    files.keep(b"!", true).unwrap();
    files.finish().unwrap();

    assert_eq!(fs::read(&path).unwrap(), b"wholeha!");
    let sum = fs::read_to_string(directory.path().join("a.sha256")).unwrap();
    assert_eq!(sum, format!("{}  a\n", sha256(b"wholeha!")));
}

#[test]
fn a_sum_names_a_file_as_sha256sum_does() {
    let line = |name: &str| String::from_utf8(files::sum_line(&[0xab], name.as_ref())).unwrap();

    assert_eq!(line("a b"), "ab  a b");
    assert_eq!(line("a\\b\nc"), "\\ab  a\\\\b\\nc");
}

#[test]
fn numbered_names_sort_by_number_and_keep_their_ending() {
    let name = |file: &str| files::numbered(file.as_ref(), 7, 1_795_937_209_500_000_000);

    assert_eq!(name("run.pcapng"), "run_00007_20261129T072649Z.pcapng");
    assert_eq!(name("run"), "run_00007_20261129T072649Z");
}

fn report() -> Arc<Report> {
    let sample = Box::new(sample(Some(bridge())));
    Arc::new(Report { time_unix_ns: 5, body: Body::Sample(sample) })
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;

    let digest = sha2::Sha256::digest(bytes);
    digest.iter().fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"))
}
