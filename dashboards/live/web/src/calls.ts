// Calls that the dashboard passes on to the API with the user's key, which stays in this page's memory alone.

export interface Answer {
  status: number;
  body: Record<string, unknown>;
}

let key = "";

export function useKey(value: string): void {
  key = value;
}

/** The answer, also one that says what is wrong; status 0 if there was none. */
export async function call(path: string, body?: unknown): Promise<Answer> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key !== "") headers["authorization"] = `Bearer ${key}`;
  try {
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  } catch (error) {
    return { status: 0, body: { detail: `The dashboard does not answer (${String(error)}).` } };
  }
}

export const isRefused = (answer: Answer): boolean => answer.status === 401 || answer.status === 403;

export const problemOf = (answer: Answer): string => String(answer.body["detail"] ?? `HTTP ${answer.status}`);
