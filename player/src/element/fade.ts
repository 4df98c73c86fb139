/** Lets the sound of an element go within a tenth of a second, so that its end is not heard as a click. */

const STEPS = 6;
const STEP_MS = 16;

export function fade(video: HTMLMediaElement): void {
  const volume = video.volume;
  if (video.muted || volume === 0) {
    video.muted = true;
    return;
  }
  let step = 0;
  const timer = setInterval(() => {
    step++;
    // iOS keeps the volume as it is; there it goes at once.
    if (step < STEPS) video.volume = volume * (1 - step / STEPS);
    else {
      clearInterval(timer);
      video.muted = true;
      video.volume = volume;
    }
  }, STEP_MS);
}
