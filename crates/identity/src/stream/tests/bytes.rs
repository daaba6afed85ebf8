//! Known bytes in random pieces, sent and compared.

use super::*;

/// Writes `total` bytes of a known sequence in random pieces, plain and vectored.
async fn pour(mut to: impl AsyncWrite + Unpin, seed: u64, total: usize, largest: usize) {
    let (mut data, mut sizes) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(seed ^ 1));
    let mut left = total;
    while left > 0 {
        let mut piece = vec![0; sizes.random_range(1..=largest).min(left)];
        data.fill_bytes_each(&mut piece);
        left -= piece.len();
        if sizes.random() {
            to.write_all(&piece).await.unwrap();
        } else {
            let cut = sizes.random_range(0..=piece.len().min(40));
            let mut slices = [IoSlice::new(&piece[..cut]), IoSlice::new(&[]), IoSlice::new(&piece[cut..])];
            let mut rest = &mut slices[..];
            while rest.iter().any(|s| !s.is_empty()) {
                let written = to.write_vectored(rest).await.unwrap();
                assert!(written > 0);
                IoSlice::advance_slices(&mut rest, written);
            }
        }
        if sizes.random_ratio(1, 8) {
            to.flush().await.unwrap();
        }
    }
    to.shutdown().await.unwrap();
}

/// Reads to the end and compares.
async fn drink(mut from: impl AsyncRead + Unpin, seed: u64, total: usize, largest: usize) {
    let (mut data, mut sizes) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(seed ^ 2));
    let (mut buf, mut wanted) = (vec![0; largest], vec![0; largest]);
    let mut got = 0;
    loop {
        let size = sizes.random_range(1..=largest);
        let count = from.read(&mut buf[..size]).await.unwrap();
        if count == 0 {
            break;
        }
        data.fill_bytes_each(&mut wanted[..count]);
        assert!(buf[..count] == wanted[..count], "bytes differ after {got}");
        got += count;
    }
    assert_eq!(got, total);
}

trait FillEach {
    fn fill_bytes_each(&mut self, buf: &mut [u8]);
}

impl FillEach for StdRng {
    /// The same sequence however it is cut.
    fn fill_bytes_each(&mut self, buf: &mut [u8]) {
        for byte in buf {
            *byte = self.next_u32() as u8;
        }
    }
}

/// Both directions at once, of two ends of any make.
pub(super) async fn exchange<A, B>(a: A, b: B, total: usize, largest: usize)
where
    A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ((a_read, a_write), (b_read, b_write)) = (tokio::io::split(a), tokio::io::split(b));
    let tasks = [
        tokio::spawn(pour(a_write, 7, total, largest)),
        tokio::spawn(pour(b_write, 8, total, largest)),
        tokio::spawn(drink(b_read, 7, total, largest)),
        tokio::spawn(drink(a_read, 8, total, largest)),
    ];
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(240), task).await.expect("in time").unwrap();
    }
}
