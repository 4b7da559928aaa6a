// Jobs of the page's server: following one while it runs, and cancelling it.

/** Cancel a job on the server. */
export function drop(id) {
  return fetch(`api/jobs/${id}`, { method: "DELETE" }).catch(() => {});
}

/**
 * Follow a job until it ends.
 *
 * @param id the job's
 * @param on {part(data), state(now), end(now), lost()}: called with each part, with each state before the last, with
 *   the last one, and if the server is gone
 * @returns {id, close}
 */
export function followJob(id, on) {
  const events = new EventSource(`api/jobs/${id}/events`);
  events.addEventListener("part", (event) => on.part?.(JSON.parse(event.data)));
  events.addEventListener("message", (event) => {
    const now = JSON.parse(event.data);
    if (now.state === "waiting" || now.state === "running") return on.state(now);
    events.close();
    return on.end(now);
  });
  events.addEventListener("error", () => events.readyState === EventSource.CLOSED && on.lost());
  return { id, close: () => events.close() };
}
