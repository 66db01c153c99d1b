//! Carries a stream from one end to the other by a plan.

use std::future::pending;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, sink};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::plan::{Fault, Plan};
use crate::testing::dice::Dice;

const BUFFER: usize = 64 << 10;
/// So far pieces are of a few bytes where a plan splits: handshakes and frame heads.
const FINE: u64 = 1 << 10;
/// A plan that pauses does so this often, so that a transfer still ends in time.
const PAUSES: u32 = 20;

/// Why both directions end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Close,
    Reset,
}

/// Carries both directions of a connection.
pub(super) async fn both_ways(
    mut client: TcpStream,
    mut server: TcpStream,
    plans: [Plan; 2],
    dice: [Dice; 2],
) {
    let [up, down] = plans;
    let [up_dice, down_dice] = dice;
    let outcome = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::try_join!(
            one_way(client_read, server_write, up, up_dice),
            one_way(server_read, client_write, down, down_dice)
        )
    };
    if outcome == Err(Cut::Reset) {
        // Closing without lingering sends RST.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Carries one direction to its end, or to where `plan` cuts the connection.
pub(super) async fn one_way<R, W>(mut from: R, mut to: W, plan: Plan, mut dice: Dice) -> Result<(), Cut>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    let (mut passed, mut pauses) = (0, 0);
    let mut flip = match plan.fault {
        Fault::Flip(mask) => mask.to_le_bytes().to_vec(),
        _ => Vec::new(),
    };
    let mut lose = if let Fault::Lose(bytes) = plan.fault { bytes } else { 0 };
    loop {
        let most = piece(&plan, passed, &mut dice);
        let got = match from.read(&mut buffer[..most]).await {
            Ok(got @ 1..) => got,
            Ok(_) => {
                let _ = to.shutdown().await;
                return Ok(());
            }
            // One side was reset; so is the other.
            Err(_) => return Err(Cut::Reset),
        };
        let mut piece = &mut buffer[..got];
        if passed >= plan.at {
            match plan.fault {
                Fault::Stall => pending().await,
                Fault::Close => return Err(Cut::Close),
                Fault::Reset => return Err(Cut::Reset),
                Fault::Truncate => {
                    let _ = to.shutdown().await;
                    let _ = tokio::io::copy(&mut from, &mut sink()).await;
                    return Ok(());
                }
                Fault::Lose(_) => {
                    let missing = lose.min(got as u64);
                    lose -= missing;
                    piece = &mut piece[missing as usize..];
                }
                Fault::Flip(_) => {
                    let flipped = flip.len().min(got);
                    for (byte, mask) in piece.iter_mut().zip(flip.drain(..flipped)) {
                        *byte ^= mask;
                    }
                }
                Fault::None => {}
            }
        }
        if !plan.pause.is_zero() && pauses < PAUSES {
            pauses += 1;
            sleep(dice.time(plan.pause)).await;
        }
        if to.write_all(piece).await.is_err() {
            return Err(Cut::Reset);
        }
        passed += got as u64;
    }
}

/// How much to read at once, so that a fault strikes at its byte.
fn piece(plan: &Plan, passed: u64, dice: &mut Dice) -> usize {
    let most = match (plan.split, passed < FINE) {
        (false, _) => BUFFER as u64,
        (true, true) => 1 + dice.below(16),
        (true, false) => 1 + dice.below_by_magnitude(BUFFER as u64),
    };
    let until_fault = if passed < plan.at { plan.at - passed } else { u64::MAX };
    most.min(until_fault) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::duplex;
    use tokio::time::timeout;

    use super::*;

    /// What arrives of 5000 bytes, and how the direction ended; `None` where it does not end.
    async fn through(plan: Plan) -> (Vec<u8>, Option<Result<(), Cut>>) {
        let (mut near, from) = duplex(100);
        let (to, mut far) = duplex(100_000);
        let relay = tokio::spawn(one_way(from, to, plan, Dice::new(1, &[])));
        let sent: Vec<u8> = (0..5000_u32).map(|i| i as u8).collect();
        let sending = tokio::spawn(async move {
            let _ = near.write_all(&sent).await;
        });
        let mut got = Vec::new();
        let _ = timeout(Duration::from_secs(60), far.read_to_end(&mut got)).await;
        sending.abort();
        let end = timeout(Duration::from_secs(60), relay).await.ok().map(Result::unwrap);
        (got, end)
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_strikes_at_its_byte() {
        let sent: Vec<u8> = (0..5000_u32).map(|i| i as u8).collect();
        for (at, split) in [(0, false), (3, true), (1024, false), (4100, true)] {
            let run = |fault| through(Plan { fault, at, split, pause: Duration::from_millis(1) });
            let until = at as usize;
            assert_eq!(run(Fault::None).await, (sent.clone(), Some(Ok(()))));
            let (flipped, _) = run(Fault::Flip(0x8000_0001)).await;
            let differ: Vec<usize> = (0..5000).filter(|&i| flipped[i] != sent[i]).collect();
            assert_eq!(differ, [until, until + 3]);
            let (lost, _) = run(Fault::Lose(300)).await;
            assert!(lost[..until] == sent[..until] && lost[until..] == sent[until + 300..]);
            assert_eq!(run(Fault::Truncate).await, (sent[..until].to_vec(), Some(Ok(()))));
            assert_eq!(run(Fault::Close).await, (sent[..until].to_vec(), Some(Err(Cut::Close))));
            assert_eq!(run(Fault::Reset).await, (sent[..until].to_vec(), Some(Err(Cut::Reset))));
            assert_eq!(run(Fault::Stall).await, (sent[..until].to_vec(), None));
        }
    }
}
