//! The boundary to FFmpeg: the few things that `ffmpeg-next` has no safe call for. All unsafe code of this crate is in this file.

#![allow(unsafe_code)]

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
    sync::Once,
};

use ffmpeg_next::{Error, codec, color, ffi, format::Pixel, frame};

/// How much of FFmpeg's words is kept for an error, bytes.
const LOG_BYTES: usize = 512;

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Sends FFmpeg's log to `tracing` (it writes to stderr by itself), and keeps the last error of each thread for [`last_error`]. Any number of calls.
pub(super) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the callback has the signature that FFmpeg asks for, may run on any thread, and does not unwind (a panic in it would abort).
        unsafe {
            ffi::av_log_set_callback(Some(on_log));
        }
        // Elsewhere `va_list` is another type in each ABI: do without the words.
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: sets a number.
        unsafe {
            ffi::av_log_set_level(ffi::AV_LOG_QUIET);
        }
    });
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn on_log(
    context: *mut c_void,
    level: c_int,
    format: *const c_char,
    arguments: *mut ffi::__va_list_tag,
) {
    if level > ffi::AV_LOG_WARNING {
        return;
    }
    let mut line = [0 as c_char; LOG_BYTES];
    let mut prefix: c_int = 1;
    // SAFETY: the first four arguments are FFmpeg's own, passed on once; the line is as long as is said and comes back terminated with a zero.
    let text = unsafe {
        ffi::av_log_format_line2(
            context,
            level,
            format,
            arguments,
            line.as_mut_ptr(),
            LOG_BYTES as c_int,
            &mut prefix,
        );
        CStr::from_ptr(line.as_ptr())
    };
    let text = text.to_string_lossy();
    let text = text.trim();
    if level <= ffi::AV_LOG_ERROR {
        // A thread that is ending has no place for it any more; nobody will ask.
        let _ = LAST_ERROR.try_with(|last| {
            if let Ok(mut last) = last.try_borrow_mut() {
                last.clear();
                last.push_str(text);
            }
        });
    }
    tracing::debug!(target: "ffmpeg", "{text}");
}

/// What FFmpeg last said went wrong on this thread; forgets it.
pub(super) fn last_error() -> Option<String> {
    LAST_ERROR
        .with_borrow_mut(|last| (!last.is_empty()).then(|| std::mem::take(last)))
        // "[h264_nvenc @ 0x55d0c0ffee00] Cannot load libcuda.so.1": the address helps nobody.
        .map(|text| match text.split_once("] ") {
            Some((prefix, rest)) if prefix.starts_with('[') => rest.to_owned(),
            _ => text,
        })
}

/// Refuses pictures of more pixels, whichever parameter set announces them: a decoder holds up to sixteen.
pub(super) fn limit_pixels(context: &mut codec::Context, pixels: i64) {
    // SAFETY: the context is allocated and not open yet; the field is a plain number.
    unsafe { (*context.as_mut_ptr()).max_pixels = pixels };
}

/// Gives a context that is not open yet its out-of-band configuration.
pub(super) fn set_extradata(context: &mut codec::Context, bytes: &[u8]) -> Result<(), Error> {
    let padding = ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
    let length = c_int::try_from(bytes.len()).map_err(|_| Error::InvalidData)?;
    // SAFETY: the buffer is FFmpeg's own allocation, longer than the bytes by the zeroed padding it asks for, and belongs to the context from here on;
    // a previous one is released first.
    unsafe {
        let raw = context.as_mut_ptr();
        let buffer = ffi::av_mallocz(bytes.len() + padding).cast::<u8>();
        if buffer.is_null() {
            return Err(Error::Other { errno: 12 });
        }
        ptr::copy_nonoverlapping(bytes.as_ptr(), buffer, bytes.len());
        ffi::av_freep((&raw mut (*raw).extradata).cast());
        (*raw).extradata = buffer;
        (*raw).extradata_size = length;
    }
    Ok(())
}

/// The out-of-band configuration of an open encoder; empty where it has none.
pub(super) fn extradata(context: &codec::Context) -> &[u8] {
    // SAFETY: an open context owns `extradata_size` bytes at `extradata`, and nothing frees them while the context is borrowed.
    unsafe {
        let raw = context.as_ptr();
        match usize::try_from((*raw).extradata_size) {
            Ok(length) if length > 0 && !(*raw).extradata.is_null() => {
                std::slice::from_raw_parts((*raw).extradata, length)
            }
            _ => &[],
        }
    }
}

/// Another frame on the same pixels: its times, its picture type and its format's name can be set without a copy.
pub(super) fn share(source: &frame::Video) -> Result<frame::Video, Error> {
    let mut shared = frame::Video::empty();
    // SAFETY: both are valid frames, and the new one is empty, as `av_frame_ref` asks.
    match unsafe { ffi::av_frame_ref(shared.as_mut_ptr(), source.as_ptr()) } {
        0 => Ok(shared),
        error => Err(Error::from(error)),
    }
}

/// Makes sure that nobody else reads a frame's pixels, by a copy where an encoder still does.
pub(super) fn make_writable(frame: &mut frame::Video) -> Result<(), Error> {
    // SAFETY: the frame is valid and reference-counted.
    match unsafe { ffi::av_frame_make_writable(frame.as_mut_ptr()) } {
        error if error < 0 => Err(Error::from(error)),
        _ => Ok(()),
    }
}

/// The same for sound.
pub(super) fn make_audio_writable(frame: &mut frame::Audio) -> Result<(), Error> {
    // SAFETY: the frame is valid and reference-counted.
    match unsafe { ffi::av_frame_make_writable(frame.as_mut_ptr()) } {
        error if error < 0 => Err(Error::from(error)),
        _ => Ok(()),
    }
}

/// Scales pictures of one size, format and colour to another size and format; bicubic, on the caller's thread.
pub(super) struct Scaler {
    context: ptr::NonNull<ffi::SwsContext>,
    input: (Pixel, u32, u32),
    output: (Pixel, u32, u32),
}

// SAFETY: a context has no ties to the thread that made it, and is used by one thread at a time through `&mut`.
unsafe impl Send for Scaler {}

impl Scaler {
    /// A scaler for pictures like `input`. Matrix and range stay what they are; RGB becomes BT.709 of limited range.
    pub(super) fn new(input: &frame::Video, output: (Pixel, u32, u32)) -> Result<Self, Error> {
        let (format, width, height) = (input.format(), input.width(), input.height());
        let side = |pixels: u32| c_int::try_from(pixels).map_err(|_| Error::InvalidData);
        // SAFETY: no pointer but the optional filters and parameters is passed, and those may be null.
        let raw = unsafe {
            ffi::sws_getContext(
                side(width)?,
                side(height)?,
                format.into(),
                side(output.1)?,
                side(output.2)?,
                output.0.into(),
                ffi::SWS_BICUBIC,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null(),
            )
        };
        let context = ptr::NonNull::new(raw).ok_or(Error::InvalidData)?;
        let scaler = Self {
            context,
            input: (format, width, height),
            output,
        };
        let matrix = match input.color_space() {
            color::Space::BT709 | color::Space::RGB => ffi::SWS_CS_ITU709,
            color::Space::BT2020NCL | color::Space::BT2020CL => ffi::SWS_CS_BT2020,
            color::Space::FCC => ffi::SWS_CS_FCC,
            color::Space::SMPTE240M => ffi::SWS_CS_SMPTE240M,
            _ => ffi::SWS_CS_ITU601,
        };
        let rgb = input.color_space() == color::Space::RGB;
        let full = c_int::from(full_range(input));
        // SAFETY: the context is valid; the tables are FFmpeg's constants. That a pair of formats has no use for them is no error.
        unsafe {
            let table = ffi::sws_getCoefficients(matrix);
            ffi::sws_setColorspaceDetails(
                scaler.context.as_ptr(),
                table,
                full,
                table,
                if rgb { 0 } else { full },
                0,
                1 << 16,
                1 << 16,
            );
        }
        Ok(scaler)
    }

    /// Scales one picture. `output` must be writable and of the size and format that the scaler was made for.
    pub(super) fn scale(
        &mut self,
        input: &frame::Video,
        output: &mut frame::Video,
    ) -> Result<(), Error> {
        let shape = |frame: &frame::Video| (frame.format(), frame.width(), frame.height());
        if shape(input) != self.input || shape(output) != self.output || output.planes() == 0 {
            return Err(Error::InputChanged);
        }
        // SAFETY: both frames own planes of just the size and format that the context was made for (checked above), and `output` is borrowed alone.
        let lines = unsafe {
            let (from, to) = (input.as_ptr(), output.as_mut_ptr());
            ffi::sws_scale(
                self.context.as_ptr(),
                (*from).data.as_ptr().cast(),
                (*from).linesize.as_ptr(),
                0,
                (*from).height,
                (*to).data.as_ptr(),
                (*to).linesize.as_ptr(),
            )
        };
        match lines {
            error if error < 0 => Err(Error::from(error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: the context is this scaler's alone.
        unsafe { ffi::sws_freeContext(self.context.as_ptr()) }
    }
}

/// Whether luma runs from 0 to 255.
pub(super) fn full_range(frame: &frame::Video) -> bool {
    frame.color_range() == color::Range::JPEG
        || matches!(
            frame.format(),
            Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P
        )
}

/// A graphics device with a pool of frames on it (VAAPI): pictures are uploaded before they are encoded.
pub(super) struct Uploader {
    frames: ptr::NonNull<ffi::AVBufferRef>,
}

// SAFETY: buffer references are counted atomically and FFmpeg guards the pool behind them; used by one thread at a time through `&mut`.
unsafe impl Send for Uploader {}

impl Uploader {
    /// Opens the first VAAPI device and gives the encoder's context a pool of NV12 frames of this size.
    pub(super) fn vaapi(
        context: &mut codec::Context,
        width: u32,
        height: u32,
    ) -> Result<Self, Error> {
        let side = |pixels: u32| c_int::try_from(pixels).map_err(|_| Error::InvalidData);
        let (width, height) = (side(width)?, side(height)?);
        // SAFETY: each reference is made here, checked for null, and released on every path: the device's after the pool took its own, the pool's by
        // `Drop`; the context takes a reference of its own.
        unsafe {
            let mut device = ptr::null_mut();
            let made = ffi::av_hwdevice_ctx_create(
                &mut device,
                ffi::AVHWDeviceType::AV_HWDEVICE_TYPE_VAAPI,
                ptr::null(),
                ptr::null_mut(),
                0,
            );
            if made < 0 {
                return Err(Error::from(made));
            }
            let pool = ffi::av_hwframe_ctx_alloc(device);
            ffi::av_buffer_unref(&mut device);
            let uploader = Self {
                frames: ptr::NonNull::new(pool).ok_or(Error::Other { errno: 12 })?,
            };
            let description = (*pool).data.cast::<ffi::AVHWFramesContext>();
            (*description).format = Pixel::VAAPI.into();
            (*description).sw_format = Pixel::NV12.into();
            (*description).width = width;
            (*description).height = height;
            (*description).initial_pool_size = 8;
            let ready = ffi::av_hwframe_ctx_init(pool);
            if ready < 0 {
                return Err(Error::from(ready));
            }
            let own = ffi::av_buffer_ref(pool);
            if own.is_null() {
                return Err(Error::Other { errno: 12 });
            }
            (*context.as_mut_ptr()).hw_frames_ctx = own;
            Ok(uploader)
        }
    }

    /// A frame on the device with the picture of a frame in memory.
    pub(super) fn upload(&mut self, source: &frame::Video) -> Result<frame::Video, Error> {
        let mut uploaded = frame::Video::empty();
        // SAFETY: the pool is valid, the target is an empty frame that then owns a surface of the pool, the source is only read.
        let result = unsafe {
            match ffi::av_hwframe_get_buffer(self.frames.as_ptr(), uploaded.as_mut_ptr(), 0) {
                0 => match ffi::av_hwframe_transfer_data(uploaded.as_mut_ptr(), source.as_ptr(), 0)
                {
                    0 => ffi::av_frame_copy_props(uploaded.as_mut_ptr(), source.as_ptr()),
                    error => error,
                },
                error => error,
            }
        };
        match result {
            error if error < 0 => Err(Error::from(error)),
            _ => Ok(uploaded),
        }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        let mut frames = self.frames.as_ptr();
        // SAFETY: the reference is this uploader's alone.
        unsafe { ffi::av_buffer_unref(&mut frames) }
    }
}
