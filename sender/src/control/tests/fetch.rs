//! What receivers fetch: chunks, and single symbols of chunks.

use super::*;

/// Chunks of two symbols and a half.
#[derive(Debug)]
pub(super) struct Pattern;

const SYMBOL_BYTES: usize = 1408;
const STORED_BYTES: usize = SYMBOL_BYTES * 5 / 2;

impl ChunkSource for Pattern {
    fn stored(&self, chunk: ChunkId) -> Result<Vec<u8>, String> {
        Ok((0..STORED_BYTES).map(|at| (at as u32 * 7 + chunk.0) as u8).collect())
    }
}

impl Client {
    async fn fetch(&mut self, chunks: &[ChunkRange], symbols: &[(u32, &[u32])]) -> Result<Vec<v1::ChunkPart>, tonic::Status> {
        let symbols = symbols.iter().map(|&(chunk, symbol)| v1::ChunkSymbols { chunk, symbol: symbol.to_vec() });
        let request = v1::ChunkRequest {
            receiver_id: self.receiver_id,
            chunks: chunks.iter().map(|&run| run.into()).collect(),
            symbols: symbols.collect(),
        };
        let mut parts = self.calls.fetch_chunks(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(part) = timeout(DEADLINE, parts.message()).await.unwrap()? {
            all.push(part);
        }
        Ok(all)
    }
}

#[tokio::test]
async fn symbols_come_behind_chunks_and_the_last_one_is_filled_up() {
    let bench = serve(Limits::default());
    let mut client = bench.enrolled("web").await;
    let parts = client.fetch(&[range(3, 1)], &[(5, &[0, 2]), (9, &[1])]).await.unwrap();
    let of = |chunk| Pattern.stored(ChunkId(chunk)).unwrap();
    assert_eq!(parts.iter().map(|part| (part.chunk, &part.symbol[..])).collect::<Vec<_>>(), [(3, &[][..]), (5, &[0, 2]), (9, &[1])]);
    assert_eq!(parts[0].stored, of(3));
    let mut expected = [&of(5)[..SYMBOL_BYTES], &of(5)[2 * SYMBOL_BYTES..]].concat();
    expected.resize(2 * SYMBOL_BYTES, 0);
    assert!(parts[1].stored == expected && parts[2].stored == of(9)[SYMBOL_BYTES..2 * SYMBOL_BYTES]);
}

#[tokio::test]
async fn symbols_that_cannot_be_asked_for_are_refused_and_a_good_receiver_is_served() {
    let bench = serve(Limits::default());
    let mut client = bench.enrolled("web").await;
    let many: Vec<u32> = (0..=wire::session::SOURCE_SYMBOLS_MAX as u32).collect();
    let too_many_chunks: Vec<(u32, &[u32])> = (0..300).map(|chunk| (chunk, &[0][..])).collect();
    for (what, symbols) in [
        ("another image's", &[(700, &[0][..])][..]),
        ("no chunk's", &[(u32::MAX, &[0][..])]),
        ("none", &[(1, &[][..])]),
        ("twice", &[(1, &[1, 1][..])]),
        ("descending", &[(1, &[1, 0][..])]),
        ("beyond K", &[(1, &[3][..])]),
        ("far beyond K", &[(1, &[u32::MAX][..])]),
        ("more than there can be", &[(1, &many[..])]),
        ("of too many chunks", &too_many_chunks[..]),
    ] {
        let refused = client.fetch(&[], symbols).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
    }
    assert_eq!(client.fetch(&[], &[(1, &[1])]).await.unwrap().len(), 1);
}
