//! What is particular to shared memory.

mod connections;
mod hostile;
mod processes;

use avp_transport::{Connection, Options, TransportError, connect};
use avp_wire::{Bytes, EncodeOptions, Frame, Metadata};

use crate::common::raw_shm::{Place, place, url};

async fn pair(client: &Options, server: &Options) -> (Place, Connection, Connection) {
    let place = place(server).await;
    let url = url(&place.path);
    let (client, server) = tokio::join!(connect(&url, client), place.listener.accept());
    (place, client.unwrap(), server.unwrap())
}

async fn send(connection: &mut Connection, payload: impl Into<Bytes>) -> Result<(), TransportError> {
    let plain = EncodeOptions { checksum: false, ..EncodeOptions::default() };
    connection.send_frame(&Frame::new(Metadata::default(), payload), &plain).await.map(drop)
}
