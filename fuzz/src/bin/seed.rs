//! Makes seeds: `seed sparse IMAGE OUTPUT` a disk image in the sparse form of the targets that take disks; `seed wire DIRECTORY` packets and
//! reports; `seed manifests PACK DIRECTORY` the manifests of a pack. scripts/fuzz runs it.

use std::error::Error;
use std::fs;
use std::path::Path;

use prost::Message;
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::proto::v1;
use wire::report::{ChunkRange, Deficit, Report};
use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

type Outcome = Result<(), Box<dyn Error>>;

/// Runs of zeros as long as this are left out.
const BLOCK_BYTES: usize = 512;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sparse", image, output] => Ok(fs::write(output, sparse(&fs::read(image)?))?),
        ["wire", directory] => wire_seeds(Path::new(directory)),
        ["manifests", pack, directory] => manifests(Path::new(pack), Path::new(directory)),
        _ => Err("usage: seed sparse IMAGE OUTPUT | wire DIRECTORY | manifests PACK DIRECTORY".into()),
    }
}

fn sparse(disk: &[u8]) -> Vec<u8> {
    let mut out = b"SPARSED1".to_vec();
    out.extend_from_slice(&(disk.len() as u64).to_le_bytes());
    let mut run: Option<(usize, &[u8])> = None;
    let mut end_run = |run: &mut Option<(usize, &[u8])>| {
        if let Some((start, bytes)) = run.take() {
            out.extend_from_slice(&(start as u64).to_le_bytes());
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
    };
    for start in (0..disk.len()).step_by(BLOCK_BYTES) {
        let end = (start + BLOCK_BYTES).min(disk.len());
        if disk[start..end].iter().all(|&byte| byte == 0) {
            end_run(&mut run);
        } else {
            let first = run.map_or(start, |(first, _)| first);
            run = Some((first, &disk[first..end]));
        }
    }
    end_run(&mut run);
    out
}

fn manifests(pack: &Path, directory: &Path) -> Outcome {
    let name = pack.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let pack = image::Pack::open(pack)?;
    for image in 0..pack.images().len() {
        fs::write(directory.join(format!("{name}-{image}")), pack.manifest_section(image)?)?;
    }
    Ok(())
}

fn wire_seeds(directory: &Path) -> Outcome {
    for name in ["packet", "report", "erasure"] {
        fs::create_dir_all(directory.join(name))?;
    }
    let header = Header {
        kind: Kind::Symbol,
        session: SessionId(1),
        chunk: ChunkId(7),
        symbol: SymbolIndex(3),
        source_symbols: 5,
        sequence: Sequence(9),
        stream: StreamId(0),
    };
    let symbol = [0x5a; 1408];
    for (name, header, symbol) in
        [("symbol", header, &symbol[..]), ("sync", Header::sync(SessionId(1), 1000, StreamId(0), Sequence(10)), &[])]
    {
        let mut bytes = [0; HEADER_BYTES];
        header.write(&mut bytes, Symbol::new(symbol));
        fs::write(directory.join("packet").join(name), [&bytes, symbol].concat())?;
    }

    // K, size of a symbol, repair symbols by their index, lost source symbols; see the target.
    let codes: [(&str, u16, u16, &[u16], &[u8]); 3] = [
        ("few", 5, 8, &[6, 5], &[0b10010]),
        ("full", 187, 1408, &[190, 187, 188], &[1, 0, 0, 0x80]),
        ("too-few", 60, 100, &[60], &[3]),
    ];
    for (name, k, symbol_bytes, repair, lost) in codes {
        let mut bytes = [k.to_le_bytes(), (symbol_bytes - 1).to_le_bytes()].concat();
        bytes.push(repair.len() as u8);
        bytes.extend(repair.iter().flat_map(|index| index.to_le_bytes()));
        bytes.extend(lost.iter().copied().chain(std::iter::repeat(0)).take(usize::from(k).div_ceil(8)));
        bytes.extend(0..=250);
        fs::write(directory.join("erasure").join(name), bytes)?;
    }

    let ranges = vec![ChunkRange { first: ChunkId(0), count: 10 }, ChunkRange { first: ChunkId(990), count: 10 }];
    let report = Report {
        passed: vec![(StreamId(0), Sequence(77))],
        completed: ranges.clone(),
        deficits: vec![Deficit { chunk: ChunkId(20), symbols: 2, missing: vec![SymbolIndex(1), SymbolIndex(4)] }],
        packets_seen: 99,
        packets_sent: 101,
        backlog_permille: 500,
        corrupt: vec![ChunkId(7)],
        ..Report::default()
    };
    let ready = v1::Ready { receiver_id: 1, want: ranges.into_iter().map(Into::into).collect(), ..v1::Ready::default() };
    let messages =
        [("report", v1::receiver_message::Message::Report((&report).into())), ("ready", v1::receiver_message::Message::Ready(ready))];
    for (name, message) in messages {
        fs::write(directory.join("report").join(name), v1::ReceiverMessage { message: Some(message) }.encode_to_vec())?;
    }
    Ok(())
}
