/** Fullscreen and picture in picture, with WebKit's older names for both. */

interface WebKitVideo extends HTMLVideoElement {
  webkitEnterFullscreen?(): void;
  webkitSupportsPresentationMode?(mode: string): boolean;
  webkitSetPresentationMode?(mode: string): void;
  webkitPresentationMode?: string;
}

export function fullscreenPossible(host: HTMLElement, video: WebKitVideo): boolean {
  return typeof host.requestFullscreen === 'function' ? document.fullscreenEnabled : typeof video.webkitEnterFullscreen === 'function';
}

export function isFullscreen(host: HTMLElement): boolean {
  return document.fullscreenElement === host || host.matches(':fullscreen');
}

export async function toggleFullscreen(host: HTMLElement, video: WebKitVideo): Promise<void> {
  if (isFullscreen(host)) return document.exitFullscreen();
  // The whole element, so that the controls come along; an iPhone lends its screen to the video alone.
  if (typeof host.requestFullscreen === 'function') return host.requestFullscreen();
  video.webkitEnterFullscreen?.();
}

export function pipPossible(video: WebKitVideo): boolean {
  return document.pictureInPictureEnabled || video.webkitSupportsPresentationMode?.('picture-in-picture') === true;
}

export async function togglePip(video: WebKitVideo): Promise<void> {
  if (document.pictureInPictureElement) return document.exitPictureInPicture();
  if (document.pictureInPictureEnabled) {
    await video.requestPictureInPicture();
    return;
  }
  video.webkitSetPresentationMode?.(video.webkitPresentationMode === 'picture-in-picture' ? 'inline' : 'picture-in-picture');
}
