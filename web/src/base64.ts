// Bytes as base64, which JSON needs, and as base64url, which an address needs.

export async function base64(content: Blob): Promise<string> {
  const url = await new Promise<string>((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(new Error("The file can't be read."));
    reader.readAsDataURL(content);
  });
  return url.slice(url.indexOf(",") + 1);
}

export function toUrl(text: string): string {
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export function fromUrl(text: string): string {
  return text.replaceAll("-", "+").replaceAll("_", "/");
}

export function base64Bytes(text: string): Uint8Array<ArrayBuffer> {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}
