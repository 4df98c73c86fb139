/**
 * media-chrome's store over a live session. Its controls read their state from here and send their requests here; by itself it knows a
 * bare media element only. What a session decides (play, seek, live, renditions) goes to the session, the rest stays media-chrome's:
 * volume and mute with their memory, fullscreen, picture in picture.
 */
import { createMediaStore, type MediaStore } from 'media-chrome/media-store/media-store';
import { requestMap } from 'media-chrome/media-store/request-map';
import { stateMediator, type Rendition as MenuRendition, type StateMediator } from 'media-chrome/media-store/state-mediator';

/** Dispatched at the video element when something that {@link Live} tells has changed. */
export const LIVE_CHANGE = 'livechange';

/** What the controls need to know of a player, and may ask of it. */
export interface Live {
  /** Does the picture keep to the live edge? */
  readonly atLive: () => boolean;
  readonly renditions: () => MenuRendition[];
  /** The chosen rendition's name; `undefined` for automatic. */
  readonly rendition: () => string | undefined;
  /** Is what the viewer does to the volume forgotten? */
  readonly forgetful: () => boolean;
  /** Should an element begin as loud as the viewer last wished? Not one that took over from another. */
  readonly recalls: () => boolean;
  readonly play: () => Promise<void>;
  readonly pause: () => void;
  /** Moves the playhead, seconds. */
  readonly seekBy: (deltaS: number) => void;
  readonly jumpToLive: () => void;
  /** A rendition's name, or `auto`. */
  readonly chooseRendition: (name: string) => void;
}

/** @param current the element that is seen */
export function liveStore(live: Live, host: HTMLElement, current: () => HTMLVideoElement): MediaStore {
  const { mediaMuted, mediaVolume } = stateMediator;
  type Recall = NonNullable<(typeof mediaMuted)['stateOwnersUpdateHandlers']>[number];
  const where = (recall: Recall): Recall => (handler, owners) => (live.recalls() ? recall(handler, owners) : undefined);
  const [recallMuted, recallVolume] = [mediaMuted, mediaVolume].map((state) => ({
    stateOwnersUpdateHandlers: ((state.stateOwnersUpdateHandlers ?? []) as Recall[]).map(where),
  }));
  return createMediaStore({
    fullscreenElement: host,
    options: { defaultStreamType: 'live' },
    stateMediator: {
      ...stateMediator,
      mediaStreamType: { get: () => 'live' },
      mediaTimeIsLive: { get: live.atLive, mediaEvents: ['play', 'pause', LIVE_CHANGE] },
      mediaRenditionList: { get: live.renditions, mediaEvents: [LIVE_CHANGE] },
      mediaRenditionSelected: { ...stateMediator.mediaRenditionSelected, get: live.rendition, mediaEvents: [LIVE_CHANGE] },
      // The session recovers from errors of the element, or says what is wrong; the controls would stop working at the first.
      mediaErrorCode: { get: () => undefined } as unknown as StateMediator['mediaErrorCode'],
      // In a frame that may not, the methods are there and fail.
      mediaFullscreenUnavailable: { get: () => (fullscreenPossible(host, current()) ? undefined : 'unsupported') },
      mediaPipUnavailable: { get: () => (document.pictureInPictureEnabled ? undefined : 'unsupported') },
      mediaMuted: { ...mediaMuted, ...recallMuted, set: (muted, owners) => (live.forgetful() ? void (current().muted = muted) : mediaMuted.set(muted, owners)) },
      mediaVolume: { ...mediaVolume, ...recallVolume, set: (volume, owners) => (live.forgetful() ? void (current().volume = volume) : mediaVolume.set(volume, owners)) },
    } as StateMediator,
    requestMap: {
      ...requestMap,
      mediaplayrequest: () => void live.play(),
      mediapauserequest: live.pause,
      mediaseekrequest: (_mediator, _owners, { detail }) => live.seekBy(Number(detail) - current().currentTime),
      mediaseektoliverequest: live.jumpToLive,
      mediarenditionrequest: (_mediator, _owners, { detail }) => live.chooseRendition(String(detail)),
      // The rate is how the delay is held.
      mediaplaybackraterequest: () => undefined,
    },
  });
}

function fullscreenPossible(host: HTMLElement, video: HTMLVideoElement): boolean {
  return typeof host.requestFullscreen === 'function' ? document.fullscreenEnabled : 'webkitEnterFullscreen' in video;
}
