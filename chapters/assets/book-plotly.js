// Draws the figures of a page, in the colours of the page, and again when the reader switches
// between light and dark. A figure is a <div class="book-plotly"> that holds its data as JSON.
(() => {
  const root = document.documentElement;
  const narrow = 500; // px: below it a legend beside the plot leaves no room for the plot

  /** The page's colours as Plotly's defaults: what a figure sets itself stays as it is. */
  function template() {
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const text = colour("--pst-color-text-base");
    const line = colour("--pst-color-border");
    const back = colour("--pst-color-background");
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true };
    return {
      layout: {
        font: { color: text, family: style.getPropertyValue("--pst-font-family-base") },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        xaxis: axis,
        yaxis: axis,
        legend: { bgcolor: "rgba(0,0,0,0)", bordercolor: line },
        hoverlabel: { bgcolor: back, bordercolor: line, font: { color: text } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: text },
        updatemenudefaults: { bgcolor: back, bordercolor: line, font: { color: text } },
        sliderdefaults: { bgcolor: line, bordercolor: line, font: { color: text } },
      },
    };
  }

  function draw(figure) {
    const { data, layout, config } = JSON.parse(figure.querySelector("script").textContent);
    const changes = { template: template(), autosize: true };
    if (figure.clientWidth < narrow && layout.legend?.orientation !== "h") {
      changes.legend = { ...layout.legend, orientation: "h", x: 0, y: -0.25, yanchor: "top" };
    }
    const settings = { responsive: true, displaylogo: false, ...config };
    Plotly.newPlot(figure, data, { ...layout, ...changes }, settings);
  }

  const figures = document.querySelectorAll(".book-plotly");
  figures.forEach(draw);
  new MutationObserver(() => {
    figures.forEach((figure) => Plotly.relayout(figure, { template: template() }));
  }).observe(root, { attributeFilter: ["data-theme"] });
})();
