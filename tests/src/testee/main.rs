//! `avp-testee`: this workspace's crates behind the protocol of `avp-conform`, and nothing else.

use std::io;

fn main() -> anyhow::Result<()> {
    avp_tests::testee::serve(io::stdin().lock(), io::stdout().lock())
}
