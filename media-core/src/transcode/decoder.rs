//! The H.264 decoder: one thread, so that a frame comes out as soon as the stream's own reordering allows, damage concealed.

use ffmpeg_next::{Error as AvError, codec, decoder, frame, packet};

use super::{av, encoder::with_four_byte_lengths, ladder::Picture};
use crate::{
    codec::sps,
    media::{FrameRate, VideoConfig, VideoPacket},
};

pub(super) struct Decoder {
    config: VideoConfig,
    opened: decoder::Video,
}

impl Decoder {
    pub(super) fn open(config: VideoConfig) -> Result<Self, AvError> {
        av::init();
        let found = decoder::find(codec::Id::H264).ok_or(AvError::DecoderNotFound)?;
        let mut context = codec::Context::new_with_codec(found);
        av::limit_pixels(&mut context, 256 * sps::MAX_MACROBLOCKS as i64);
        av::set_extradata(&mut context, &with_four_byte_lengths(&config.avcc))?;
        Ok(Self {
            config,
            opened: context.decoder().video()?,
        })
    }

    pub(super) fn config(&self) -> &VideoConfig {
        &self.config
    }

    /// Decodes a packet and gives the frames that are due; the number says how many errors there were.
    pub(super) fn decode(
        &mut self,
        packet: &VideoPacket,
        mut frames: impl FnMut(frame::Video),
    ) -> u64 {
        // FFmpeg takes an empty packet for the end of the stream.
        if packet.data.is_empty() {
            return 1;
        }
        let mut input = packet::Packet::copy(&packet.data);
        input.set_pts(Some(packet.pts));
        input.set_dts(Some(packet.dts));
        // All frames are taken after each packet, so that the decoder is never full: any error is the packet's.
        let sent = u64::from(self.opened.send_packet(&input).is_err());
        sent + self.receive(&mut frames)
    }

    /// Gives the frames that are held back; takes packets again from the next IDR on.
    pub(super) fn drain(&mut self, mut frames: impl FnMut(frame::Video)) {
        if self.opened.send_eof().is_ok() {
            self.receive(&mut frames);
        }
        self.opened.flush();
    }

    fn receive(&mut self, frames: &mut impl FnMut(frame::Video)) -> u64 {
        let mut errors = 0;
        loop {
            let mut frame = frame::Video::empty();
            match self.opened.receive_frame(&mut frame) {
                Ok(()) => {
                    errors += u64::from(frame.is_corrupt() || frame.has_decode_errors());
                    frames(frame);
                }
                Err(AvError::Eof) => return errors,
                Err(AvError::Other { errno }) if errno == ffmpeg_next::error::EAGAIN => {
                    return errors;
                }
                // An error is of one packet; the next call says whether there is more. It cannot go on for ever, since each takes a packet's worth.
                Err(_) if errors < 16 => errors += 1,
                Err(_) => return errors,
            }
        }
    }

    /// The frame rate that the stream's own timing says (VUI), where it is a believable one.
    pub(super) fn frame_rate(&self) -> Option<FrameRate> {
        let rate = self.opened.frame_rate()?;
        let rate = FrameRate {
            num: u32::try_from(rate.numerator()).ok()?,
            den: u32::try_from(rate.denominator()).ok()?,
        };
        believable(rate).then_some(rate)
    }
}

/// Whether a claimed frame rate can be one.
pub(super) fn believable(rate: FrameRate) -> bool {
    rate.num > 0 && rate.den > 0 && (1.0..=240.0).contains(&rate.fps())
}

/// What matters of a decoded frame for the sizes of the rungs.
pub(super) fn picture(frame: &frame::Video, rate: FrameRate) -> Picture {
    let sar = frame.aspect_ratio();
    let sar = match (
        u32::try_from(sar.numerator()),
        u32::try_from(sar.denominator()),
    ) {
        // More than 16:1 is damage, not anamorphism.
        (Ok(num), Ok(den)) if num > 0 && den > 0 && num / den < 16 && den / num < 16 => (num, den),
        _ => (1, 1),
    };
    Picture {
        width: frame.width(),
        height: frame.height(),
        sar,
        rate,
    }
}
