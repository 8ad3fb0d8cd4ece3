// An AXI-Lite master: while bit 0 of STATUS (0x0) is set, it reads a byte from RXDATA (0x4) and writes it to TXDATA (0x8).
module axil_master (
    input clk, input rst, output reg done,
    output reg [31:0] m_axil_araddr, output [2:0] m_axil_arprot, output reg m_axil_arvalid, input m_axil_arready,
    input [31:0] m_axil_rdata, input [1:0] m_axil_rresp, input m_axil_rvalid, output m_axil_rready,
    output [31:0] m_axil_awaddr, output [2:0] m_axil_awprot, output reg m_axil_awvalid, input m_axil_awready,
    output reg [31:0] m_axil_wdata, output [3:0] m_axil_wstrb, output reg m_axil_wvalid, input m_axil_wready,
    input [1:0] m_axil_bresp, input m_axil_bvalid, output m_axil_bready
);
    localparam STATUS = 32'h0, RXDATA = 32'h4, TXDATA = 32'h8;
    assign {m_axil_arprot, m_axil_awprot, m_axil_wstrb} = {3'd0, 3'd0, 4'b0001};
    assign {m_axil_rready, m_axil_bready, m_axil_awaddr} = {1'b1, 1'b1, TXDATA};
    always @(posedge clk)
        if (rst) begin
            {m_axil_arvalid, m_axil_awvalid, m_axil_wvalid, done} <= 4'b1000;
            m_axil_araddr <= STATUS;
            m_axil_wdata <= 0;
        end else begin
            if (m_axil_arready) m_axil_arvalid <= 0;
            if (m_axil_awready) m_axil_awvalid <= 0;
            if (m_axil_wready) m_axil_wvalid <= 0;
            if (m_axil_rvalid && m_axil_rresp != 0) done <= 1;
            else if (m_axil_rvalid && m_axil_araddr == STATUS) begin
                m_axil_araddr <= RXDATA;
                m_axil_arvalid <= m_axil_rdata[0];
                done <= !m_axil_rdata[0];
            end else if (m_axil_rvalid) begin
                m_axil_wdata <= m_axil_rdata;
                {m_axil_awvalid, m_axil_wvalid} <= 2'b11;
            end
            if (m_axil_bvalid) begin
                m_axil_araddr <= STATUS;
                m_axil_arvalid <= 1;
            end
        end
endmodule
