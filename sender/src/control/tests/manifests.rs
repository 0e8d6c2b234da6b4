//! Manifests that are multicast: who is told what, and what is sent.

use super::*;
use std::net::UdpSocket;
use wire::description::{Gathering, Shape};
use wire::proto::v1::manifest_part::Multicast;

const BLOCK_BYTES: usize = 256 * 1024;
/// Two blocks and a piece, of which the last bytes are the proof.
const DESCRIPTION_BYTES: usize = 2 * BLOCK_BYTES + 5000;
const PROOF_BYTES: usize = 6000;

fn description(image: u8) -> Vec<u8> {
    (0..DESCRIPTION_BYTES)
        .map(|at| (at ^ at >> 8 ^ at >> 16) as u8 ^ if at < DESCRIPTION_BYTES - PROOF_BYTES { image } else { 0 })
        .collect()
}

/// A sender of two images of a signed pack, and where its descriptive stream can be heard.
fn serve_descriptions() -> (Bench, Heard) {
    let (heard, socket) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    socket.connect(heard.local_addr().unwrap()).unwrap();
    let mut info = session();
    for (index, image) in info.images.iter_mut().enumerate() {
        image.manifest = description(index as u8)[..DESCRIPTION_BYTES - PROOF_BYTES].to_vec();
    }
    info.proof = description(0)[DESCRIPTION_BYTES - PROOF_BYTES..].to_vec();
    let group = ([239, 192, 68, 5], 4700).into();
    let gather = Duration::from_millis(200);
    info.descriptive = Some(Arc::new(DescriptiveStream { group, source: [127, 0, 0, 1].into(), socket, gather }));
    (serve_session(|_| {}, info), Heard::listen(heard))
}

/// Takes packets all the time, on a thread of its own that ends with the test's process.
struct Heard {
    packets: Arc<std::sync::Mutex<Vec<Vec<u8>>>>,
}

impl Heard {
    fn listen(socket: UdpSocket) -> Heard {
        let packets = Arc::<std::sync::Mutex<Vec<Vec<u8>>>>::default();
        let heard = Arc::clone(&packets);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok(bytes) = socket.recv(&mut buffer) {
                heard.lock().unwrap().push(buffer[..bytes].to_vec());
            }
        });
        Heard { packets }
    }

    /// What has come when nothing more does.
    async fn all(&self) -> Vec<Vec<u8>> {
        loop {
            let before = self.packets.lock().unwrap().len();
            tokio::time::sleep(Duration::from_millis(200)).await;
            let packets = self.packets.lock().unwrap();
            if packets.len() == before {
                return packets.clone();
            }
        }
    }
}

fn shape(image: u8) -> Shape {
    Shape::new(blake3::hash(&description(image)).as_bytes(), DESCRIPTION_BYTES, &session().parameters).unwrap()
}

impl Client {
    async fn manifest(&mut self, multicast: bool, block: &[u32]) -> Result<Vec<v1::ManifestPart>, tonic::Status> {
        let request = v1::ManifestRequest { receiver_id: self.receiver_id, multicast, block: block.to_vec() };
        let mut parts = self.calls.fetch_manifest(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(part) = timeout(DEADLINE, parts.message()).await.unwrap()? {
            all.push(part);
        }
        Ok(all)
    }
}

/// What clients are told who ask in the same moment.
async fn ask_together(clients: &mut [Client]) -> Vec<Vec<v1::ManifestPart>> {
    let mut asking = tokio::task::JoinSet::new();
    for client in clients {
        let mut client = Client { calls: client.calls.clone(), receiver_id: client.receiver_id };
        asking.spawn(async move { client.manifest(true, &[]).await.unwrap() });
    }
    asking.join_all().await
}

async fn enrolled(bench: &Bench, images: &[&str]) -> Vec<Client> {
    let mut clients = Vec::new();
    for image in images {
        clients.push(bench.enrolled(image).await);
    }
    clients
}

#[tokio::test]
async fn three_who_want_the_same_are_sent_it_once() {
    let (bench, heard) = serve_descriptions();
    let mut clients = enrolled(&bench, &["db", "db", "db"]).await;
    for told in ask_together(&mut clients).await {
        assert!(told.iter().all(|part| part.data.is_empty() && part.proof.is_empty()));
        assert_eq!(told.last().unwrap().multicast(), Multicast::Ended);
    }
    let sent = heard.all().await;
    let mut gathering = Gathering::new(shape(1));
    assert!(sent.iter().filter(|packet| gathering.on_payload(packet)).count() > 0);
    assert!(gathering.into_description() == Some(description(1)));
    // Two per cent of repair symbols, and two for each block.
    let needed = DESCRIPTION_BYTES.div_ceil(1408) + 2;
    assert!(sent.len() <= needed + needed / 50 + 9, "{} packets for {needed}", sent.len());
    // The streams made room for a tenth of the cap, and were told of the end.
    let reserved: Vec<u64> = bench
        .events
        .try_iter()
        .filter_map(|event| match event {
            ControlEvent::Describing { bits_per_second } => Some(bits_per_second),
            _ => None,
        })
        .collect();
    assert_eq!(reserved, [100_000_000, 0]);
    let counts = bench.server.manifests();
    assert_eq!(counts, ManifestCounts { multicasts: 1, by_multicast: 3, ..ManifestCounts::default() });
    bench.serves().await;
}

#[tokio::test]
async fn fewer_who_want_the_same_get_it_over_their_connections() {
    let (bench, heard) = serve_descriptions();
    let mut clients = enrolled(&bench, &["web", "web", "db", "db"]).await;
    for told in ask_together(&mut clients).await {
        let bytes: Vec<u8> = told.iter().flat_map(|part| &part.data).chain(told.iter().flat_map(|part| &part.proof)).copied().collect();
        assert!(bytes == description(0) || bytes == description(1));
    }
    assert!(heard.all().await.is_empty());
    assert_eq!(bench.server.manifests(), ManifestCounts { by_unicast: 4, ..ManifestCounts::default() });
}

#[tokio::test]
async fn who_does_not_listen_is_not_counted() {
    let (bench, heard) = serve_descriptions();
    let mut clients = enrolled(&bench, &["web", "web", "web"]).await;
    let deaf = clients[0].manifest(false, &[]).await.unwrap();
    assert!(deaf.iter().map(|part| part.data.len() + part.proof.len()).sum::<usize>() == DESCRIPTION_BYTES);
    ask_together(&mut clients[1..]).await;
    assert!(heard.all().await.is_empty());
    assert_eq!(bench.server.manifests().by_unicast, 3);
}

#[tokio::test]
async fn blocks_are_those_that_were_asked_for_and_others_are_refused() {
    let (bench, _heard) = serve_descriptions();
    let mut client = bench.enrolled("db").await;
    let parts = client.manifest(false, &[0, 2]).await.unwrap();
    assert_eq!(parts.iter().map(|part| part.block).collect::<Vec<_>>(), [Some(0), Some(2)]);
    // The last one begins in the manifest and ends in the proof.
    assert!(parts[0].data == description(1)[..BLOCK_BYTES] && parts[1].data == description(1)[2 * BLOCK_BYTES..]);
    for bad in [&[3][..], &[1, 1], &[1, 0], &[u32::MAX]] {
        assert_eq!(client.manifest(false, bad).await.unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
    }
    assert_eq!(client.manifest(false, &[1]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn one_who_hangs_up_does_not_disturb_the_others() {
    let (bench, heard) = serve_descriptions();
    let mut clients = enrolled(&bench, &["web", "web", "web", "web"]).await;
    let mut gone = clients.pop().unwrap();
    let request = v1::ManifestRequest { receiver_id: gone.receiver_id, multicast: true, block: Vec::new() };
    drop(gone.calls.fetch_manifest(request).await.unwrap());
    drop(gone);
    for told in ask_together(&mut clients).await {
        assert_eq!(told.last().unwrap().multicast(), Multicast::Ended);
    }
    assert!(!heard.all().await.is_empty());
    bench.serves().await;
}
