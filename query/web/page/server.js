// What the page's server answers.

export async function answer(promise) {
  let response;
  try {
    response = await promise;
  } catch {
    throw new Error("The page's server does not answer; is it still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw Object.assign(new Error(told?.error ?? `The server answered ${response.status}.`), { status: response.status });
}
