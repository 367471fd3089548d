/** An error whose message is meant for the reader of the page. */
export class PageError extends Error {}
